/* Connect, one line, close, so many in parallel: compares every reply byte for byte, and tells
 * connections a second, how long each took from its start to its reply, errors, and the CPU time
 * that it took itself.
 *
 *   connect PORT PREFIX PARALLEL LINE_BYTES WARM_SECONDS SECONDS MOST
 *
 * It says "ready" once it has run for WARM_SECONDS and waits for a line, then "done" and the
 * figures after SECONDS or MOST connections.
 */
#include "load.h"

struct client {
	int fd;
	size_t at;      /* how much of the reply has come; the line is sent in one piece */
	uint64_t began;
};

static struct pattern pattern;
static struct tally tally;
static int queue, port;
static size_t open_now;

static void end(struct client *client, const char *why)
{
	if (why)
		failed(&tally, why);
	close(client->fd);
	client->fd = -1;
	open_now--;
}

/* Sends the line, or waits until the connection stands. */
static void say(struct client *client, int operation)
{
	ssize_t size = send(client->fd, pattern.lines, pattern.line, MSG_NOSIGNAL);
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};

	if (size < 0 && errno == EAGAIN)
		event.events = EPOLLOUT;
	else if (size != (ssize_t)pattern.line) {
		end(client, "cannot-send");
		return;
	}
	if (epoll_ctl(queue, operation, client->fd, &event) < 0)
		die("epoll_ctl");
}

static void start(struct client *client)
{
	client->began = now();
	client->fd = make_socket(SOCK_NONBLOCK);
	client->at = 0;
	open_now++;
	if (dial(client->fd, port) < 0 && errno != EINPROGRESS)
		end(client, "cannot-connect");
	else
		say(client, EPOLL_CTL_ADD);
}

static void hear(struct client *client)
{
	char buffer[BUFFER];
	ssize_t size = recv(client->fd, buffer, sizeof buffer, 0);

	if (size < 0 && errno == EAGAIN)
		return;
	if (size <= 0) {
		end(client, size ? "reset" : "closed");
		return;
	}
	if (client->at + (size_t)size > pattern.reply ||
	    memcmp(buffer, pattern.replies + client->at, (size_t)size)) {
		end(client, "wrong-reply");
		return;
	}
	client->at += (size_t)size;
	if (client->at == pattern.reply) {
		tally.last = now();
		answered(&tally, tally.last - client->began);
		end(client, NULL);
	}
}

/* The next connection in the place of one that has ended. A server that fails every time is not
 * asked for ever.
 */
static void go_on(struct client *client, uint64_t until, unsigned long most)
{
	if (client->fd < 0 && now() < until && tally.lines + open_now < most && tally.errors < 1000)
		start(client);
}

static void run(struct client *clients, size_t count, double seconds, unsigned long most)
{
	struct epoll_event events[EVENTS];

	begin(&tally);
	uint64_t until = tally.began + (uint64_t)(seconds * 1e9), heard = tally.began;

	for (size_t i = 0; i < count; i++)
		go_on(&clients[i], until, most);
	while (open_now) {
		int ready = epoll_wait(queue, events, EVENTS, 1000);

		if (ready < 0 && errno != EINTR)
			die("epoll_wait");
		if (ready > 0)
			heard = now();
		else if (now() > heard + (uint64_t)(PATIENCE * 1e9))
			break;
		for (int i = 0; i < ready; i++) {
			struct client *client = events[i].data.ptr;

			if (events[i].events & EPOLLOUT)
				say(client, EPOLL_CTL_MOD);
			else
				hear(client);
			go_on(client, until, most);
		}
	}
	for (size_t i = 0; i < count; i++)
		if (clients[i].fd >= 0)
			end(&clients[i], "no-reply");
}

int main(int argc, char **argv)
{
	if (argc != 8) {
		fprintf(stderr, "usage: connect PORT PREFIX PARALLEL LINE_BYTES WARM_SECONDS SECONDS"
				" MOST\n");
		return 2;
	}
	size_t count = (size_t)atol(argv[3]);
	struct client *clients = malloc(count * sizeof *clients);

	port = atoi(argv[1]);
	make_pattern(&pattern, argv[2], (size_t)atol(argv[4]), 1);
	queue = epoll_create1(0);
	if (!clients || queue < 0)
		die("start");
	for (size_t i = 0; i < count; i++)
		clients[i].fd = -1;
	run(clients, count, atof(argv[5]), (unsigned long)atol(argv[7]));
	if (tally.errors) { /* nothing to measure */
		report(&tally);
		return 0;
	}
	wait_for_word("ready");
	run(clients, count, atof(argv[6]), (unsigned long)atol(argv[7]));
	report(&tally);
	wait_for_word(NULL);
	return 0;
}
