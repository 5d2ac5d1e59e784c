#ifndef ZOE_BASE_THREAD_H
#define ZOE_BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>

/* Starts a thread that takes no signals: they are the business of the program's other threads. false: it cannot be had. */
bool zoe_thread_start(pthread_t *thread, void *(*run)(void *user), void *user);

#endif
