/* The job: appends the wall clock in nanoseconds and a number to a file. One write, so that lines never mix. */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (count < 3)
    return 2;
  char line[96];
  int length = snprintf(line, sizeof line, "%lld%09ld %.20s\n", (long long)now.tv_sec, now.tv_nsec, words[2]);
  int file = open(words[1], O_WRONLY | O_APPEND | O_CREAT, 0644);
  return write(file, line, length) == length ? 0 : 1;
}
