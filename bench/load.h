/* What both load generators share: lines and the replies due, clocks, latencies, the talk with
 * whoever measures.
 */
#ifndef LOAD_H
#define LOAD_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 256
#define BUFFER (1 << 18)
#define PATIENCE 10.0 /* seconds without a byte after which a reply counts as lost */

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

/* Lines that differ, over and over, so that a reply to another line is not taken for the right
 * one. Both runs of bytes are longer than one round: they can be read on from any place in it.
 */
struct pattern {
	size_t line, reply, lines_round, replies_round;
	char *lines, *replies;
};

static void make_pattern(struct pattern *p, const char *prefix, size_t line, size_t ahead)
{
	size_t count = line < 16384 ? 61 : 3, head = strlen(prefix) + 1;
	char *at;

	p->line = line;
	p->reply = head + line;
	p->lines_round = count * line;
	p->replies_round = count * p->reply;
	p->lines = malloc(p->lines_round + ahead * line);
	p->replies = at = malloc(p->replies_round + BUFFER);
	if (!p->lines || !p->replies)
		die("malloc");
	for (size_t i = 0; i < p->lines_round; i++)
		p->lines[i] = (i + 1) % line ? (char)(i * 7 % 251 + i / line) : '\n';
	for (size_t i = 0; i < p->lines_round; i++) /* any byte but the one that ends a line */
		if ((i + 1) % line && p->lines[i] == '\n')
			p->lines[i] = '\r';
	for (size_t i = 0; i < ahead * line; i++)
		p->lines[p->lines_round + i] = p->lines[i];
	for (size_t i = 0; i < count; i++, at += p->reply) {
		memcpy(at, prefix, head - 1);
		at[head - 1] = ' ';
		memcpy(at + head, p->lines + i * line, line);
	}
	for (size_t i = 0; i < BUFFER; i++)
		p->replies[p->replies_round + i] = p->replies[i];
}

/* Latencies in nanoseconds: 64 steps to each power of two, 1.6 % apart at most. */
#define STEPS 64
#define OCTAVES 40

struct tally {
	unsigned long lines, errors, histogram[OCTAVES * STEPS];
	const char *why; /* the first error */
	uint64_t began, last, cpu;
};

static void begin(struct tally *t)
{
	memset(t, 0, sizeof *t);
	t->cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	t->began = t->last = now();
}

static void answered(struct tally *t, uint64_t latency)
{
	unsigned shift = 0;

	while (latency >> shift >= 2 * STEPS)
		shift++;
	size_t place = shift * STEPS + (latency >> shift);

	t->histogram[place < OCTAVES * STEPS ? place : OCTAVES * STEPS - 1]++;
	t->lines++;
}

static void failed(struct tally *t, const char *why)
{
	t->errors++;
	if (!t->why)
		t->why = why;
}

/* The latency, in microseconds, that this share of the lines did not pass. */
static double quantile(const struct tally *t, double share)
{
	double wanted = share * (double)t->lines, seen = 0;

	for (size_t place = 0; place < OCTAVES * STEPS; place++) {
		seen += (double)t->histogram[place];
		if (seen >= wanted && seen > 0) {
			size_t shift = place < 2 * STEPS ? 0 : place / STEPS - 1;

			return (double)((place - shift * STEPS + 1) << shift) / 1e3;
		}
	}
	return 0;
}

static void report(const struct tally *t)
{
	double cpu = (double)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - t->cpu) / 1e9;

	printf("done lines=%lu seconds=%.6f p50=%.1f p99=%.1f p999=%.1f errors=%lu cpu=%.6f why=%s\n",
	       t->lines, (double)(t->last - t->began) / 1e9, quantile(t, 0.5), quantile(t, 0.99),
	       quantile(t, 0.999), t->errors, cpu, t->why ? t->why : "-");
	fflush(stdout);
}

/* The benchmark takes its figures between two words, while nothing is on its way. */
static void wait_for_word(const char *said)
{
	char line[16];

	if (said) {
		puts(said);
		fflush(stdout);
	}
	if (!fgets(line, sizeof line, stdin))
		exit(1); /* the benchmark has ended */
}

/* A socket of its own loopback address in turn: the ports of one would not last, for those of
 * ended connections rest for a minute.
 */
static int make_socket(int flags)
{
	static uint32_t count;
	struct sockaddr_in from = {.sin_family = AF_INET};
	int on = 1, fd = socket(AF_INET, SOCK_STREAM | flags, 0);

	from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 0x10000 + count++ % 1021); /* 127.1.0.1 on */
	if (fd < 0 || setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) < 0 ||
	    bind(fd, (struct sockaddr *)&from, sizeof from) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
		die("socket");
	return fd;
}

static int dial(int fd, int port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return connect(fd, (struct sockaddr *)&to, sizeof to);
}

#endif
