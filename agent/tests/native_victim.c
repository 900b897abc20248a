/* A program with a known chain of calls, blocked in the call that its argument names. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static volatile int after;

#define APART __attribute__((noinline, noclone))

static void *hold(void *started)
{
	pthread_mutex_lock(&mutex);
	printf("owner %ld\n", syscall(SYS_gettid));
	fflush(stdout);
	pthread_barrier_wait(started);
	for (;;)
		pause();
}

APART int inner(const char *way)
{
	char byte;
	struct timespec long_time = { 1000, 0 };

	if (!strcmp(way, "nanosleep"))
		after = nanosleep(&long_time, NULL);
	else if (!strcmp(way, "read"))
		after = read(0, &byte, 1);
	else if (!strcmp(way, "mutex"))
		after = pthread_mutex_lock(&mutex);
	else if (!strcmp(way, "condition"))
		after = pthread_cond_wait(&condition, &mutex);
	return after + 1;
}

APART int middle(const char *way)
{
	return inner(way) + 1;
}

APART int outer(const char *way)
{
	return middle(way) + 1;
}

int main(int count, char **words)
{
	pthread_t holder;
	pthread_barrier_t started;

	if (count != 2)
		return 2;
	if (!strcmp(words[1], "mutex")) {
		pthread_barrier_init(&started, NULL, 2);
		pthread_create(&holder, NULL, hold, &started);
		pthread_barrier_wait(&started);
	} else if (!strcmp(words[1], "condition")) {
		pthread_mutex_lock(&mutex);
	}
	return outer(words[1]) + after;
}
