/* Models of a small world bring the words that they know; a prompt with others deserves a kind word. */
#ifndef ZOE_PIPELINE_WORDS_H
#define ZOE_PIPELINE_WORDS_H

#include "base/context.h"

/*
 * If the model's folder has a words.txt (one word a line, lower case), logs one warning that lists the words of the prompt
 * that are not in it. Any trouble with the file only means that nothing is said.
 */
void zoe_words_check(zoe_context *ctx, const char *dir, const char *prompt);

#endif
