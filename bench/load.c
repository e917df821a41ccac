/* A client that is not the bottleneck: keeps lines on their way on many connections, compares
 * every reply byte for byte, and prints how many were answered.
 *
 *   load PORT CONNECTIONS OUTSTANDING LINE_BYTES PREFIX SECONDS
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 256
#define BUFFER (1 << 20)

struct client {
	int fd;
	size_t at; /* where in a reply the next byte belongs */
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int dial(int port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
		die("connect");
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
		die("setsockopt");
	return fd;
}

static void say(int fd, const char *lines, size_t size)
{
	if (send(fd, lines, size, MSG_NOSIGNAL) != (ssize_t)size)
		die("send");
}

int main(int argc, char **argv)
{
	if (argc != 7) {
		fprintf(stderr, "usage: load PORT CONNECTIONS OUTSTANDING LINE_BYTES PREFIX SECONDS\n");
		return 2;
	}
	int port = atoi(argv[1]), connections = atoi(argv[2]), outstanding = atoi(argv[3]);
	size_t line = (size_t)atol(argv[4]), head = strlen(argv[5]) + 1, reply = head + line;
	double seconds = atof(argv[6]);
	char *lines = malloc(line * (size_t)outstanding);
	char *expected = malloc(reply + BUFFER); /* replies in a row, read from any place in one */
	char *buffer = malloc(BUFFER);
	struct client *clients = calloc((size_t)connections, sizeof *clients);
	struct epoll_event events[EVENTS];
	int poll = epoll_create1(0);
	unsigned long answered = 0;

	if (!lines || !expected || !buffer || !clients || poll < 0)
		die("start");
	for (size_t i = 0; i < line * (size_t)outstanding; i++)
		lines[i] = (i + 1) % line ? 'x' : '\n';
	memcpy(expected, argv[5], head - 1);
	expected[head - 1] = ' ';
	memcpy(expected + head, lines, line);
	for (size_t i = reply; i < reply + BUFFER; i++)
		expected[i] = expected[i - reply];
	for (int i = 0; i < connections; i++) {
		struct epoll_event event = {.events = EPOLLIN, .data.ptr = &clients[i]};

		clients[i].fd = dial(port);
		if (epoll_ctl(poll, EPOLL_CTL_ADD, clients[i].fd, &event) < 0)
			die("epoll_ctl");
	}
	double began = now();

	for (int i = 0; i < connections; i++)
		say(clients[i].fd, lines, line * (size_t)outstanding);
	while (now() - began < seconds) {
		int ready = epoll_wait(poll, events, EVENTS, 1000);

		if (ready < 0 && errno != EINTR)
			die("epoll_wait");
		for (int i = 0; i < ready; i++) {
			struct client *client = events[i].data.ptr;
			ssize_t size = recv(client->fd, buffer, BUFFER, 0);

			if (size <= 0)
				die("recv");
			if (memcmp(buffer, expected + client->at, (size_t)size)) {
				fprintf(stderr, "load: a wrong reply\n");
				return 1;
			}
			size_t whole = (client->at + (size_t)size) / reply;

			client->at = (client->at + (size_t)size) % reply;
			answered += whole;
			if (whole)
				say(client->fd, lines, line * whole);
		}
	}
	printf("%lu %f\n", answered, now() - began);
	return 0;
}
