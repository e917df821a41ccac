/* Lines on lasting connections: keeps so many on their way on each, compares every reply byte for
 * byte, and tells rate, latencies, errors, and the CPU time that it took itself.
 *
 *   lines PORT PREFIX CONNECTIONS OUTSTANDING LINE_BYTES WARM_SECONDS SECONDS IDLE
 *
 * It says "idle" once IDLE more connections, which stay silent, are open; "ready" once it has run
 * for WARM_SECONDS; "done" and the figures after SECONDS; "idle" again, and how many of the silent
 * ones failed to answer one line at the end. Before each of the next steps it waits for a line.
 */
#include <fcntl.h>

#include "load.h"

struct client {
	int fd, writable;     /* not writable: part of a line waits for room in the socket */
	size_t from, unsent;  /* where in the lines the next byte to send is, and how many are due */
	size_t at;            /* where in the replies the next byte to come belongs */
	size_t first, flying; /* lines on their way: the oldest one's place among the times, and count */
	uint64_t *sent;       /* when each was first offered to the socket */
};

static struct pattern pattern;
static struct tally tally;
static size_t outstanding, flying, alive;
static int queue;

static void watch(struct client *client, int operation, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = client};

	if (epoll_ctl(queue, operation, client->fd, &event) < 0)
		die("epoll_ctl");
}

static void drop(struct client *client, const char *why)
{
	failed(&tally, why);
	close(client->fd);
	client->fd = -1;
	flying -= client->flying;
	client->flying = 0;
	alive--;
}

static void push(struct client *client)
{
	while (client->unsent) {
		ssize_t size = send(client->fd, pattern.lines + client->from, client->unsent,
				    MSG_NOSIGNAL);

		if (size < 0 && errno == EAGAIN) {
			if (client->writable)
				watch(client, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
			client->writable = 0;
			return;
		}
		if (size < 0) {
			drop(client, "cannot-send");
			return;
		}
		client->from = (client->from + (size_t)size) % pattern.lines_round;
		client->unsent -= (size_t)size;
	}
	if (!client->writable)
		watch(client, EPOLL_CTL_MOD, EPOLLIN);
	client->writable = 1;
}

static void say(struct client *client, size_t count, uint64_t when)
{
	for (size_t i = 0; i < count; i++)
		client->sent[(client->first + client->flying++) % outstanding] = when;
	flying += count;
	client->unsent += count * pattern.line;
	push(client);
}

static void hear(struct client *client, int more)
{
	static char buffer[BUFFER];
	ssize_t size = recv(client->fd, buffer, BUFFER, 0);

	if (size < 0 && errno == EAGAIN)
		return;
	if (size <= 0) {
		drop(client, size ? "reset" : "closed");
		return;
	}
	size_t end = client->at % pattern.reply + (size_t)size, whole = end / pattern.reply;

	if (memcmp(buffer, pattern.replies + client->at, (size_t)size) ||
	    end > client->flying * pattern.reply) {
		drop(client, "wrong-reply");
		return;
	}
	client->at = (client->at + (size_t)size) % pattern.replies_round;
	tally.last = now();
	for (size_t i = 0; i < whole; i++) {
		answered(&tally, tally.last - client->sent[client->first]);
		client->first = (client->first + 1) % outstanding;
	}
	client->flying -= whole;
	flying -= whole;
	if (whole && more)
		say(client, whole, tally.last);
}

/* Runs for a time, then until the last reply. */
static void run(struct client *clients, size_t count, double seconds)
{
	struct epoll_event events[EVENTS];

	begin(&tally);
	uint64_t end = tally.began + (uint64_t)(seconds * 1e9), heard = tally.began;

	for (size_t i = 0; i < count; i++)
		if (clients[i].fd >= 0)
			say(&clients[i], outstanding, now());
	while (flying) {
		int ready = epoll_wait(queue, events, EVENTS, 1000);
		uint64_t time = now();

		if (ready < 0 && errno != EINTR)
			die("epoll_wait");
		if (ready > 0)
			heard = time;
		else if (time > heard + (uint64_t)(PATIENCE * 1e9))
			break;
		for (int i = 0; i < ready; i++) {
			struct client *client = events[i].data.ptr;

			if (client->fd >= 0 && events[i].events & EPOLLOUT)
				push(client);
			if (client->fd >= 0 && events[i].events & ~(uint32_t)EPOLLOUT)
				hear(client, time < end);
		}
	}
	for (size_t i = 0; i < count && flying; i++)
		if (clients[i].flying)
			drop(&clients[i], "no-reply");
}

static int *hold(int port, int count)
{
	int *fds = calloc((size_t)count + 1, sizeof *fds);

	for (int i = 0; i < count; i++) {
		fds[i] = make_socket(0);
		if (dial(fds[i], port) < 0)
			die("connect");
	}
	return fds;
}

/* One line on each silent connection: how many are not answered. */
static void ask(int *fds, int count)
{
	struct timeval patience = {.tv_sec = (time_t)PATIENCE};
	static char buffer[BUFFER];
	int wrong = 0;

	for (int i = 0; i < count; i++) {
		setsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
		if (send(fds[i], pattern.lines, pattern.line, MSG_NOSIGNAL) < 0 ||
		    recv(fds[i], buffer, pattern.reply, MSG_WAITALL) != (ssize_t)pattern.reply ||
		    memcmp(buffer, pattern.replies, pattern.reply))
			wrong++;
	}
	printf("idle errors=%d\n", wrong);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	if (argc != 9) {
		fprintf(stderr, "usage: lines PORT PREFIX CONNECTIONS OUTSTANDING LINE_BYTES"
				" WARM_SECONDS SECONDS IDLE\n");
		return 2;
	}
	int port = atoi(argv[1]), idle = atoi(argv[8]);
	size_t count = (size_t)atol(argv[3]);
	struct client *clients = calloc(count, sizeof *clients);

	outstanding = (size_t)atol(argv[4]);
	make_pattern(&pattern, argv[2], (size_t)atol(argv[5]), outstanding);
	queue = epoll_create1(0);
	if (!clients || queue < 0)
		die("start");
	int *fds = hold(port, idle);

	if (idle)
		wait_for_word("idle");
	for (size_t i = 0; i < count; i++) {
		size_t phase = i % (pattern.lines_round / pattern.line);

		clients[i] = (struct client){.fd = make_socket(0), .writable = 1,
					     .from = phase * pattern.line,
					     .at = phase * pattern.reply};
		clients[i].sent = calloc(outstanding, sizeof *clients[i].sent);
		if (!clients[i].sent || dial(clients[i].fd, port) < 0 ||
		    fcntl(clients[i].fd, F_SETFL, O_NONBLOCK) < 0)
			die("connect");
		watch(&clients[i], EPOLL_CTL_ADD, EPOLLIN);
	}
	alive = count;
	run(clients, count, atof(argv[6]));
	if (tally.errors || !alive) { /* nothing to measure */
		report(&tally);
		return 0;
	}
	wait_for_word("ready");
	run(clients, count, atof(argv[7]));
	report(&tally);
	wait_for_word(NULL);
	ask(fds, idle);
	return 0;
}
