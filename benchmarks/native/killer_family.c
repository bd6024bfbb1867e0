/* Who a process's parent and children are. */
#include "common.h"
#include "killer.h"

#include <errno.h>
#include <string.h>

pid_t parent_of(pid_t pid) {
    char path[32], line[64];
    int parent = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *file = fopen(path, "r");
    while (file && !parent && fgets(line, sizeof line, file)) sscanf(line, "PPid: %d", &parent);
    if (!parent) die("it has no parent");
    fclose(file);
    return parent;
}

struct children children_of(pid_t parent) {
    struct children all = {0};
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", parent, parent);
    FILE *file = fopen(path, "r");
    if (!file) die("%s: %s", path, strerror(errno));
    while (all.count < CHILDREN_MOST && fscanf(file, "%d", &all.pids[all.count]) == 1) all.count++;
    fclose(file);
    return all;
}

pid_t newcomer(const struct children *before, const struct children *now) {
    for (int i = 0; i < now->count; i++) {
        bool known = false;
        for (int j = 0; j < before->count; j++) known |= now->pids[i] == before->pids[j];
        if (!known) return now->pids[i];
    }
    return 0;
}
