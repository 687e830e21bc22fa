/* A program linked statically with musl: threads, fork, a pipe to a shell, memory. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void *doubled(void *number)
{
    return (void *)((long)number * 2);
}

int main(void)
{
    pthread_t threads[20];
    long sum = 0;
    for (long i = 0; i < 20; i++)
        pthread_create(&threads[i], NULL, doubled, (void *)i);
    for (int i = 0; i < 20; i++) {
        void *result;
        pthread_join(threads[i], &result);
        sum += (long)result;
    }
    printf("threads %ld\n", sum);
    fflush(stdout);

    pid_t child = fork();
    if (child == 0) {
        puts("child");
        exit(3);
    }
    int status;
    waitpid(child, &status, 0);
    printf("fork %d\n", WEXITSTATUS(status));

    char *memory = malloc(8 << 20);
    memory[8 << 19] = 7;
    printf("heap %d\n", realloc(memory, 16 << 20) ? 7 : 0);

    char line[32] = "";
    FILE *shell = popen("echo popen | tr a-z A-Z", "r");
    if (!shell || !fgets(line, sizeof line, shell))
        return 1;
    printf("shell %s", line);
    return pclose(shell);
}
