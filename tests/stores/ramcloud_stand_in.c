/*
 * A stand-in for RAMCloud's client library: the calls that Flowloom's driver makes, on tables in this process's memory.
 *
 * It is no RAMCloud and no server.  It answers as the published header and source say: reject rules, versions, statuses,
 * calls that wait for ever while the cluster is away, multi-operations that swallow errors, an enumeration that is no
 * snapshot and whose pointers die with the next call.  How a cluster behaves when servers die only a cluster shows.
 *
 * Clusters are told apart by the coordinator's locator.  The stand_in_ calls make things go wrong.
 */

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, NO_TABLE = 2, NO_OBJECT = 3, OBJECT_EXISTS = 4, WRONG_VERSION = 5, INTERNAL = 21, TOO_LARGE = 27 };
enum { OBJECT_MAX = 1 << 20, BUCKETS = 4096, TABLES = 64 };
enum { INSTEAD = 0, AFTERWARDS = 1, TWICE = 2, BROKEN = 3 };

struct RejectRules {
    uint64_t givenVersion;
    uint8_t doesntExist;
    uint8_t exists;
    uint8_t versionLeGiven;
    uint8_t versionNeGiven;
} __attribute__((packed));

struct object {
    char *key, *value;
    uint32_t key_size, size;
    uint64_t version; /* 0: removed */
    struct object *next;
};

struct table {
    char name[128];
    uint64_t id; /* 0: none */
    struct object **objects; /* in order of creation; never moved, so that a walk can go on */
    size_t count, room;
    struct object *buckets[BUCKETS];
};

struct cluster {
    char locator[256];
    struct table tables[TABLES];
    uint64_t next_table, next_version;
    int away;
    unsigned delay_ms;
    char failing[64];
    int status, times, mode, skip;
    int violations;
    struct cluster *next;
};

struct rc_client {
    struct cluster *cluster;
    int busy;
    int broken; /* The status that all its calls give. */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t back = PTHREAD_COND_INITIALIZER;
static struct cluster *clusters;

static struct cluster *cluster_at(const char *locator) {
    struct cluster *each;
    for (each = clusters; each; each = each->next)
        if (!strcmp(each->locator, locator))
            return each;
    each = calloc(1, sizeof *each);
    snprintf(each->locator, sizeof each->locator, "%s", locator);
    each->next_table = each->next_version = 1;
    each->next = clusters;
    return clusters = each;
}

/* Begin a call, holding the lock: wait while the cluster is away; whether it fails, and how. */
static int enter(struct rc_client *client, const char *call, int *mode) {
    struct cluster *cluster = client->cluster;
    pthread_mutex_lock(&lock);
    if (client->busy)
        cluster->violations++; /* Two threads, one client. */
    client->busy = 1;
    if (cluster->delay_ms) {
        pthread_mutex_unlock(&lock);
        usleep(cluster->delay_ms * 1000);
        pthread_mutex_lock(&lock);
    }
    while (cluster->away)
        pthread_cond_wait(&back, &lock);
    *mode = INSTEAD;
    if (client->broken)
        return client->broken;
    *mode = -1;
    if (strcmp(cluster->failing, call) || !cluster->times)
        return OK;
    if (cluster->skip) {
        cluster->skip--;
        return OK;
    }
    cluster->times--;
    *mode = cluster->mode;
    if (*mode == BROKEN) {
        client->broken = cluster->status;
        *mode = INSTEAD;
    }
    return cluster->status;
}

static void leave(struct rc_client *client) {
    client->busy = 0;
    pthread_mutex_unlock(&lock);
}

static struct table *table_of(struct cluster *cluster, uint64_t id) {
    for (int n = 0; n < TABLES; n++)
        if (id && cluster->tables[n].id == id)
            return &cluster->tables[n];
    return NULL;
}

static struct table *table_named(struct cluster *cluster, const char *name) {
    for (int n = 0; n < TABLES; n++)
        if (cluster->tables[n].id && !strcmp(cluster->tables[n].name, name))
            return &cluster->tables[n];
    return NULL;
}

static void clear(struct table *table) {
    for (size_t n = 0; n < table->count; n++) {
        free(table->objects[n]->key);
        free(table->objects[n]->value);
        free(table->objects[n]);
    }
    free(table->objects);
    memset(table, 0, sizeof *table);
}

static struct object **slot_of(struct table *table, const void *key, uint16_t size) {
    uint32_t hash = 2166136261u;
    for (uint16_t n = 0; n < size; n++)
        hash = (hash ^ ((const uint8_t *)key)[n]) * 16777619u;
    struct object **slot = &table->buckets[hash % BUCKETS];
    while (*slot && ((*slot)->key_size != size || memcmp((*slot)->key, key, size)))
        slot = &(*slot)->next;
    return slot;
}

static int rejected(const struct RejectRules *rules, uint64_t version) {
    if (!rules)
        return OK;
    if (!version)
        return rules->doesntExist ? NO_OBJECT : OK;
    if (rules->exists)
        return OBJECT_EXISTS;
    if (rules->versionLeGiven && version <= rules->givenVersion)
        return WRONG_VERSION;
    if (rules->versionNeGiven && version != rules->givenVersion)
        return WRONG_VERSION;
    return OK;
}

static int get(struct cluster *cluster, uint64_t id, const void *key, uint16_t key_size, uint64_t *version, void *buffer,
               uint32_t room, uint32_t *size) {
    struct table *table = table_of(cluster, id);
    *size = 0;
    if (!table)
        return NO_TABLE;
    struct object *object = *slot_of(table, key, key_size);
    if (!object || !object->version)
        return NO_OBJECT;
    *version = object->version;
    *size = object->size;
    memcpy(buffer, object->value, object->size < room ? object->size : room);
    return OK;
}

static int put(struct cluster *cluster, uint64_t id, const void *key, uint16_t key_size, const void *value, uint32_t size,
               const struct RejectRules *rules, uint64_t *version) {
    struct table *table = table_of(cluster, id);
    if (!table)
        return NO_TABLE;
    struct object **slot = slot_of(table, key, key_size), *object = *slot;
    uint64_t held = object ? object->version : 0;
    int status = rejected(rules, held);
    if (version)
        *version = held;
    if (status != OK)
        return status;
    if (size > OBJECT_MAX)
        return TOO_LARGE;
    if (!object) {
        object = *slot = calloc(1, sizeof *object);
        object->key = memcpy(malloc(key_size + 1), key, key_size);
        object->key_size = key_size;
        if (table->count == table->room) {
            table->room = table->room ? 2 * table->room : 64;
            table->objects = realloc(table->objects, table->room * sizeof *table->objects);
        }
        table->objects[table->count++] = object;
    }
    free(object->value);
    object->value = memcpy(malloc(size + 1), value, size);
    object->size = size;
    object->version = held ? held + 1 : cluster->next_version++;
    if (object->version >= cluster->next_version)
        cluster->next_version = object->version + 1;
    if (version)
        *version = object->version;
    return OK;
}

static int drop(struct cluster *cluster, uint64_t id, const void *key, uint16_t key_size, const struct RejectRules *rules,
                uint64_t *version) {
    struct table *table = table_of(cluster, id);
    if (!table)
        return NO_TABLE;
    struct object *object = *slot_of(table, key, key_size);
    uint64_t held = object ? object->version : 0;
    int status = rejected(rules, held);
    if (version)
        *version = held;
    if (status == OK && object)
        object->version = 0;
    return status;
}

/* --- the library's calls --- */

int rc_connect(const char *locator, const char *cluster_name, struct rc_client **client) {
    if (!strncmp(locator, "zk:", 3) || !*cluster_name)
        return INTERNAL; /* Built without ZooKeeper. */
    pthread_mutex_lock(&lock);
    *client = calloc(1, sizeof **client);
    (*client)->cluster = cluster_at(locator);
    pthread_mutex_unlock(&lock);
    return OK;
}

void rc_disconnect(struct rc_client *client) {
    free(client);
}

int rc_createTable(struct rc_client *client, const char *name, uint32_t span) {
    int mode, status = enter(client, "rc_createTable", &mode);
    struct cluster *cluster = client->cluster;
    if (mode < 0 && span && !table_named(cluster, name))
        for (int n = 0; n < TABLES; n++)
            if (!cluster->tables[n].id) {
                cluster->tables[n].id = cluster->next_table++;
                snprintf(cluster->tables[n].name, sizeof cluster->tables[n].name, "%s", name);
                break;
            }
    leave(client);
    return status;
}

int rc_dropTable(struct rc_client *client, const char *name) {
    int mode, status = enter(client, "rc_dropTable", &mode);
    struct table *table = table_named(client->cluster, name);
    if (table)
        clear(table);
    leave(client);
    return status;
}

int rc_getTableId(struct rc_client *client, const char *name, uint64_t *id) {
    int mode, status = enter(client, "rc_getTableId", &mode);
    struct table *table = table_named(client->cluster, name);
    if (status == OK) {
        if (table)
            *id = table->id;
        else
            status = NO_TABLE;
    }
    leave(client);
    return status;
}

int rc_read(struct rc_client *client, uint64_t table, const void *key, uint16_t key_size, const struct RejectRules *rules,
            uint64_t *version, void *buffer, uint32_t room, uint32_t *size) {
    int mode, status = enter(client, "rc_read", &mode);
    (void)rules;
    if (mode < 0)
        status = get(client->cluster, table, key, key_size, version, buffer, room, size);
    leave(client);
    return status;
}

int rc_write(struct rc_client *client, uint64_t table, const void *key, uint16_t key_size, const void *value,
             uint32_t size, const struct RejectRules *rules, uint64_t *version) {
    int mode, status = enter(client, "rc_write", &mode);
    if (mode != INSTEAD) {
        int done = put(client->cluster, table, key, key_size, value, size, rules, version);
        status = mode == AFTERWARDS ? status : done;
    }
    leave(client);
    return status;
}

struct walk {
    struct cluster *cluster;
    uint64_t table;
    size_t next;
    char *shown;
    size_t shown_size;
};

void rc_enumerateTablePrepare(struct rc_client *client, uint64_t table, int keys_only, void **state) {
    struct walk *walk = calloc(1, sizeof *walk);
    (void)keys_only;
    walk->cluster = client->cluster;
    walk->table = table;
    *state = walk;
}

static void hide(struct walk *walk) {
    if (walk->shown)
        memset(walk->shown, 0xee, walk->shown_size);
    free(walk->shown);
    walk->shown = NULL;
}

int rc_enumerateTableNext(struct rc_client *client, void *state, uint32_t *key_size, const void **key, uint32_t *size,
                          const void **value) {
    struct walk *walk = state;
    int mode, status = enter(client, "rc_enumerateTableNext", &mode);
    struct table *table = table_of(client->cluster, walk->table);
    *key = *value = NULL;
    *key_size = *size = 0;
    hide(walk);
    if (mode < 0 && !table)
        status = NO_TABLE;
    while (status == OK && walk->next < table->count) {
        struct object *object = table->objects[walk->next++];
        if (!object->version)
            continue;
        walk->shown_size = object->key_size + object->size + 1;
        walk->shown = malloc(walk->shown_size);
        memcpy(walk->shown, object->key, object->key_size);
        memcpy(walk->shown + object->key_size, object->value, object->size);
        *key = walk->shown;
        *key_size = object->key_size;
        *value = walk->shown + object->key_size;
        *size = object->size;
        break;
    }
    leave(client);
    return status;
}

void rc_enumerateTableFinalize(void *state) {
    hide(state);
    free(state);
}

struct request {
    uint64_t table, version;
    const void *key, *value;
    void *buffer;
    uint32_t *actual;
    const struct RejectRules *rules;
    uint32_t size;
    uint16_t key_size;
    int status;
};

uint16_t rc_multiOpSizeOf(int type) {
    (void)type;
    return sizeof(struct request);
}

int rc_multiOpStatus(const void *request, int type) {
    (void)type;
    return ((const struct request *)request)->status;
}

uint64_t rc_multiOpVersion(const void *request, int type) {
    (void)type;
    return ((const struct request *)request)->version;
}

void rc_multiOpDestroy(void *request, int type) {
    (void)type;
    memset(request, 0xee, sizeof(struct request));
}

void rc_multiReadCreate(uint64_t table, const void *key, uint16_t key_size, void *buffer, uint32_t room, uint32_t *actual,
                        void *where) {
    struct request made = {.table = table, .key = key, .key_size = key_size, .buffer = buffer, .size = room, .actual = actual};
    *actual = 0;
    *(struct request *)where = made;
}

void rc_multiWriteCreate(uint64_t table, const void *key, uint16_t key_size, const void *value, uint32_t size,
                         const struct RejectRules *rules, void *where) {
    struct request made = {.table = table, .key = key, .key_size = key_size, .value = value, .size = size, .rules = rules};
    *(struct request *)where = made;
}

void rc_multiRemoveCreate(uint64_t table, const void *key, uint16_t key_size, const struct RejectRules *rules, void *where) {
    struct request made = {.table = table, .key = key, .key_size = key_size, .rules = rules};
    *(struct request *)where = made;
}

void rc_multiIncrement(struct rc_client *client, void **requests, uint32_t count) {
    (void)client, (void)requests, (void)count;
}

/* INSTEAD with status 0: as when the library swallowed an exception. */
void rc_multiRead(struct rc_client *client, void **requests, uint32_t count) {
    int mode, status = enter(client, "rc_multiRead", &mode);
    for (uint32_t n = 0; n < count; n++) {
        struct request *each = requests[n];
        each->status = mode == INSTEAD ? status
                                       : get(client->cluster, each->table, each->key, each->key_size, &each->version,
                                             each->buffer, each->size, each->actual);
    }
    leave(client);
}

void rc_multiWrite(struct rc_client *client, void **requests, uint32_t count) {
    int mode, status = enter(client, "rc_multiWrite", &mode);
    for (uint32_t n = 0; n < count; n++) {
        struct request *each = requests[n];
        each->status = status;
        for (int again = 0; mode != INSTEAD && again < (mode == TWICE ? 2 : 1); again++)
            each->status = put(client->cluster, each->table, each->key, each->key_size, each->value, each->size,
                               each->rules, &each->version);
        if (mode == AFTERWARDS)
            each->status = status, each->version = 0;
    }
    leave(client);
}

void rc_multiRemove(struct rc_client *client, void **requests, uint32_t count) {
    int mode, status = enter(client, "rc_multiRemove", &mode);
    for (uint32_t n = 0; n < count; n++) {
        struct request *each = requests[n];
        each->status = mode == INSTEAD ? status
                                       : drop(client->cluster, each->table, each->key, each->key_size, each->rules,
                                              &each->version);
    }
    leave(client);
}

void rc_set_log_file(const char *path) {
    FILE *file = fopen(path, "a");
    if (!file)
        abort(); /* The library throws, and nobody catches. */
    fputs("the stand-in's log\n", file);
    fclose(file);
}

/* --- what makes things go wrong --- */

void stand_in_away(const char *locator, int away) {
    pthread_mutex_lock(&lock);
    cluster_at(locator)->away = away;
    pthread_cond_broadcast(&back);
    pthread_mutex_unlock(&lock);
}

void stand_in_delay(const char *locator, unsigned milliseconds) {
    pthread_mutex_lock(&lock);
    cluster_at(locator)->delay_ms = milliseconds;
    pthread_mutex_unlock(&lock);
}

/* After `skip` calls of that name the next `times` give `status`: instead of being done, afterwards, or done twice;
 * or instead, and whatever else that client calls. */
void stand_in_fail(const char *locator, const char *call, int status, int times, int mode, int skip) {
    pthread_mutex_lock(&lock);
    struct cluster *cluster = cluster_at(locator);
    snprintf(cluster->failing, sizeof cluster->failing, "%s", call);
    cluster->status = status, cluster->times = times, cluster->mode = mode, cluster->skip = skip;
    pthread_mutex_unlock(&lock);
}

/* All tables gone, and numbered from 1 again: a cluster that was made anew. */
void stand_in_wipe(const char *locator) {
    pthread_mutex_lock(&lock);
    struct cluster *cluster = cluster_at(locator);
    for (int n = 0; n < TABLES; n++)
        clear(&cluster->tables[n]);
    cluster->next_table = cluster->next_version = 1;
    pthread_mutex_unlock(&lock);
}

/* How often a client was used by two threads at once. */
int stand_in_violations(const char *locator) {
    pthread_mutex_lock(&lock);
    int found = cluster_at(locator)->violations;
    pthread_mutex_unlock(&lock);
    return found;
}

/* The layout of RejectRules, as the compiler has it: size and offsets. */
void stand_in_reject_rules(size_t layout[6]) {
    layout[0] = sizeof(struct RejectRules);
    layout[1] = offsetof(struct RejectRules, givenVersion);
    layout[2] = offsetof(struct RejectRules, doesntExist);
    layout[3] = offsetof(struct RejectRules, exists);
    layout[4] = offsetof(struct RejectRules, versionLeGiven);
    layout[5] = offsetof(struct RejectRules, versionNeGiven);
}
