/* The least that a server can do: one epoll loop that answers each line with a prefix, and no
 * limits, counts or log. What the kernel and the copying cost, for others to be compared with.
 *
 *   limit PORT PREFIX
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 256
#define BUFFER (1 << 18)

struct bytes {
	char *at;
	size_t size, room;
};

struct connection {
	int fd;
	struct bytes tail;   /* of a line that has not ended */
	struct bytes unsent; /* while there is any, nothing is read */
};

static struct bytes reply;
static const char *prefix;
static size_t prefix_size;
static int queue;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void add(struct bytes *to, const char *from, size_t size)
{
	if (to->size + size > to->room) {
		to->room = 2 * (to->size + size);
		to->at = realloc(to->at, to->room);
		if (!to->at)
			die("realloc");
	}
	memcpy(to->at + to->size, from, size);
	to->size += size;
}

static void forget(struct bytes *bytes)
{
	free(bytes->at);
	*bytes = (struct bytes){0};
}

static void end(struct connection *connection)
{
	close(connection->fd);
	forget(&connection->tail);
	forget(&connection->unsent);
	free(connection);
}

static void watch(struct connection *connection, int operation, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = connection};

	if (epoll_ctl(queue, operation, connection->fd, &event) < 0)
		die("epoll_ctl");
}

static void answer(const char *data, size_t size, struct bytes *tail)
{
	const char *newline;

	reply.size = 0;
	while ((newline = memchr(data, '\n', size))) {
		size_t line = (size_t)(newline - data) + 1;

		add(&reply, prefix, prefix_size);
		if (tail->size) {
			add(&reply, tail->at, tail->size);
			forget(tail);
		}
		add(&reply, data, line);
		data += line;
		size -= line;
	}
	if (size)
		add(tail, data, size);
}

/* Sends what it can and gives how much that was, or -1 if the client is gone. */
static ssize_t push(int fd, const char *data, size_t size)
{
	ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);

	return sent < 0 && errno == EAGAIN ? 0 : sent;
}

static void read_on(struct connection *connection)
{
	static char buffer[BUFFER];
	ssize_t size = recv(connection->fd, buffer, BUFFER, 0), sent = 0;

	if (size < 0 && errno == EAGAIN)
		return;
	if (size <= 0) {
		end(connection);
		return;
	}
	answer(buffer, (size_t)size, &connection->tail);
	if (reply.size && (sent = push(connection->fd, reply.at, reply.size)) < 0) {
		end(connection);
		return;
	}
	if ((size_t)sent < reply.size) {
		add(&connection->unsent, reply.at + sent, reply.size - (size_t)sent);
		watch(connection, EPOLL_CTL_MOD, EPOLLOUT);
	}
}

static void write_on(struct connection *connection)
{
	struct bytes *unsent = &connection->unsent;
	ssize_t sent = push(connection->fd, unsent->at, unsent->size);

	if (sent < 0) {
		end(connection);
		return;
	}
	unsent->size -= (size_t)sent;
	memmove(unsent->at, unsent->at + sent, unsent->size);
	if (!unsent->size) {
		forget(unsent);
		watch(connection, EPOLL_CTL_MOD, EPOLLIN);
	}
}

static void accept_all(int listener)
{
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		struct connection *connection = calloc(1, sizeof *connection);

		if (!connection)
			die("calloc");
		connection->fd = fd;
		watch(connection, EPOLL_CTL_ADD, EPOLLIN);
	}
}

static int listen_on(int port)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 || /* inherited */
	    bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 65535) < 0)
		die("listen");
	return fd;
}

int main(int argc, char **argv)
{
	struct epoll_event events[EVENTS], accepting = {.events = EPOLLIN, .data.ptr = NULL};

	if (argc != 3) {
		fprintf(stderr, "usage: limit PORT PREFIX\n");
		return 2;
	}
	int listener = listen_on(atoi(argv[1]));
	struct bytes head = {0};

	add(&head, argv[2], strlen(argv[2]));
	add(&head, " ", 1);
	prefix = head.at;
	prefix_size = head.size;
	queue = epoll_create1(0);
	if (queue < 0 || epoll_ctl(queue, EPOLL_CTL_ADD, listener, &accepting) < 0)
		die("epoll");
	for (;;) {
		int ready = epoll_wait(queue, events, EVENTS, -1);

		if (ready < 0 && errno != EINTR)
			die("epoll_wait");
		for (int i = 0; i < ready; i++) {
			struct connection *connection = events[i].data.ptr;

			if (!connection)
				accept_all(listener);
			else if (connection->unsent.size)
				write_on(connection);
			else
				read_on(connection);
		}
	}
}
