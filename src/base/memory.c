/* What memory the process has taken, and what the machine has left. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/context.h"

int64_t zoe_resident_bytes(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    if (fscanf(file, "%*s %ld", &pages) != 1) pages = 0;
    fclose(file);
    return (int64_t)pages * sysconf(_SC_PAGESIZE);
}

int64_t zoe_peak_resident_bytes(void) {
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (int64_t)usage.ru_maxrss * 1024 : 0;
}

/* The number behind `key` at the start of a line of the file; -1 where there is none. */
static int64_t read_number(const char *path, const char *key) {
    char line[128];
    size_t length = strlen(key);
    int64_t number = -1;
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    while (number < 0 && fgets(line, sizeof line, file)) {
        char *end = line;
        if (strncmp(line, key, length) == 0) number = strtoll(line + length, &end, 10);
        if (end == line || end == line + length) number = -1;
    }
    fclose(file);
    return number;
}

/* Control groups: where they are, and the files that tell of their memory. */
typedef struct groups {
    const char *line, *root;
    const char *limit, *used, *idle; /* the last a key of memory.stat */
} groups;

static const groups versions[] = {
    {"0::/", "/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "},
    {":memory:/", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "},
};

static int64_t number_in(const char *folder, const char *name, const char *key) {
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return read_number(path, key);
}

/* What is left in one of them, or `available`, which is less; pages of files that nobody uses do not count. */
static int64_t left_in_group(const groups *g, const char *folder, int64_t available) {
    int64_t limit = number_in(folder, g->limit, ""), used = number_in(folder, g->used, "");
    int64_t idle = number_in(folder, "memory.stat", g->idle), left = limit - used + (idle > 0 ? idle : 0);
    return limit > 0 && used >= 0 && left < available ? (left > 0 ? left : 0) : available;
}

/* The group that a line of /proc/self/cgroup names, and all groups that it is part of. */
static int64_t left_in_groups(const groups *g, const char *line, int64_t available) {
    const char *name = strstr(line, g->line);
    char folder[PATH_MAX];
    if (!name) return available;
    snprintf(folder, sizeof folder, "%s/%s", g->root, name + strlen(g->line));
    folder[strcspn(folder, "\n")] = 0;
    for (char *end = strchr(folder, 0); end >= folder + strlen(g->root); end = strrchr(folder, '/')) {
        *end = 0;
        available = left_in_group(g, folder, available);
    }
    return available;
}

/* Containers and services may have limits of their own. */
int64_t zoe_available_bytes(void) {
    int64_t kilobytes = read_number("/proc/meminfo", "MemAvailable:"), available = kilobytes > 0 ? kilobytes * 1024 : 0;
    char line[PATH_MAX];
    FILE *file = fopen("/proc/self/cgroup", "r");
    while (file && fgets(line, sizeof line, file))
        for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++)
            available = left_in_groups(&versions[i], line, available);
    if (file) fclose(file);
    return available;
}
