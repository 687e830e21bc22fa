// Says that it runs, then sleeps with a second thread beside it.
#include "common.h"

static void *sleep_long(void *unused) {
    sleep(60);
    return unused;
}

int main(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, sleep_long, NULL) || write(1, "up\n", 3) != 3)
        return 1;
    sleep(60);
    return 0;
}
