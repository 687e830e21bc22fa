// The least a program does: say something, and end with a status of its own.
#include <stdio.h>

int main(int argc, char **argv) {
    printf("hello from a microVM\nargument: %s\n", argc > 1 ? argv[1] : "none");
    return 7;
}
