/* wordcount: a WASI command that counts lines, words and bytes, and lists the most frequent words.
 *
 * usage: wordcount [-n COUNT] [FILE...]
 *
 * Without a FILE, or where FILE is "-", it reads standard input. Lines, words and bytes are what wc(1)
 * counts. For the list, a word is a run of letters (and of bytes above 127, so UTF-8 stays whole), which
 * may hold apostrophes between letters; capitals count as small letters.
 *
 * exit status: 0 all went well, 1 a file could not be read, 2 wrong usage, 3 no memory or no output.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNREADABLE = 1, USAGE = 2, NO_RESOURCE = 3 };

#define LONGEST_WORD 64

struct totals {
    uint64_t lines, words, bytes;
};

struct entry {
    char *word;
    uint64_t count;
};

/* An open-addressing table of words; the capacity is a power of two. */
static struct entry *table;
static size_t capacity, used;

/* The word being read: words go on across the borders of read blocks. */
static char word[LONGEST_WORD + 1];
static size_t word_length;
static bool word_too_long;

static _Noreturn void fail(int status, const char *what, const char *why) {
    fprintf(stderr, "wordcount: %s: %s\n", what, why);
    exit(status);
}

static size_t slot_of(const struct entry *entries, size_t size, const char *text) {
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (const char *c = text; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 16777619u;
    size_t slot = hash & (size - 1);
    while (entries[slot].word && strcmp(entries[slot].word, text) != 0)
        slot = (slot + 1) & (size - 1);
    return slot;
}

static void grow(void) {
    size_t size = capacity ? capacity * 2 : 1024;
    struct entry *entries = calloc(size, sizeof *entries);
    if (!entries)
        fail(NO_RESOURCE, "word table", strerror(errno));
    for (size_t i = 0; i < capacity; i++)
        if (table[i].word)
            entries[slot_of(entries, size, table[i].word)] = table[i];
    free(table);
    table = entries;
    capacity = size;
}

static void end_word(void) {
    while (word_length && word[word_length - 1] == '\'')
        word_length--;
    word[word_length] = 0;
    if (word_length && !word_too_long) {
        if (used * 4 >= capacity * 3)
            grow();
        struct entry *entry = &table[slot_of(table, capacity, word)];
        if (!entry->word) {
            entry->word = strdup(word);
            if (!entry->word)
                fail(NO_RESOURCE, "word table", strerror(errno));
            used++;
        }
        entry->count++;
    }
    word_length = 0;
    word_too_long = false;
}

static void take(unsigned char c) {
    bool capital = c >= 'A' && c <= 'Z';
    bool letter = capital || (c >= 'a' && c <= 'z') || c >= 128;
    if (!letter && !(c == '\'' && word_length)) {
        if (word_length)
            end_word();
        return;
    }
    if (word_length == LONGEST_WORD)
        word_too_long = true;
    else
        word[word_length++] = capital ? c + ('a' - 'A') : c;
}

static bool is_space(unsigned char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool count(FILE *file, struct totals *totals) {
    static unsigned char block[16384];
    bool inside = false;
    size_t length;
    while ((length = fread(block, 1, sizeof block, file)) > 0) {
        totals->bytes += length;
        for (size_t i = 0; i < length; i++) {
            unsigned char c = block[i];
            totals->lines += c == '\n';
            totals->words += !inside && !is_space(c);
            inside = !is_space(c);
            take(c);
        }
    }
    end_word();
    return !ferror(file);
}

static int by_frequency(const void *left, const void *right) {
    const struct entry *a = left, *b = right;
    if (a->count != b->count)
        return a->count < b->count ? 1 : -1;
    return strcmp(a->word, b->word);
}

static void print_totals(const struct totals *totals, const char *name) {
    printf("%7llu %7llu %8llu  %s\n", (unsigned long long)totals->lines,
           (unsigned long long)totals->words, (unsigned long long)totals->bytes, name);
}

static void print_words(unsigned long wanted) {
    size_t found = 0;
    for (size_t i = 0; i < capacity; i++)
        if (table[i].word)
            table[found++] = table[i];
    if (found)
        qsort(table, found, sizeof *table, by_frequency);
    if (found && wanted)
        putchar('\n');
    for (size_t i = 0; i < found && i < wanted; i++)
        printf("%7llu  %s\n", (unsigned long long)table[i].count, table[i].word);
}

static int usage(void) {
    fputs("usage: wordcount [-n COUNT] [FILE...]\n", stderr);
    return USAGE;
}

int main(int argc, char **argv) {
    unsigned long wanted = 10;
    int first = 1;
    if (first < argc && strcmp(argv[first], "-n") == 0) {
        char *end;
        const char *text = first + 1 < argc ? argv[first + 1] : "";
        errno = 0;
        wanted = strtoul(text, &end, 10);
        if (*text < '0' || *text > '9' || *end || errno)
            return usage();
        first += 2;
    }
    if (first < argc && strcmp(argv[first], "--") == 0)
        first++;
    else if (first < argc && argv[first][0] == '-' && argv[first][1])
        return usage();

    static char *standard_input[] = {"-"};
    char **names = first < argc ? argv + first : standard_input;
    int names_length = first < argc ? argc - first : 1;
    int status = OK;
    struct totals all = {0};
    for (int i = 0; i < names_length; i++) {
        bool is_stdin = strcmp(names[i], "-") == 0;
        FILE *file = is_stdin ? stdin : fopen(names[i], "rb");
        struct totals totals = {0};
        if (!file || !count(file, &totals)) {
            fprintf(stderr, "wordcount: %s: %s\n", names[i], strerror(errno));
            status = UNREADABLE;
        } else {
            print_totals(&totals, is_stdin ? "(stdin)" : names[i]);
            all.lines += totals.lines;
            all.words += totals.words;
            all.bytes += totals.bytes;
        }
        if (file && !is_stdin)
            fclose(file);
    }
    if (names_length > 1)
        print_totals(&all, "(total)");
    print_words(wanted);
    if (fflush(stdout) || ferror(stdout))
        fail(NO_RESOURCE, "standard output", strerror(errno));
    return status;
}
