// One fault, named by the argument, that nothing handles.
#include <string.h>

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    volatile int zero = 0;
    if (!strcmp(what, "read"))
        return *(volatile int *)0x50000000;
    if (!strcmp(what, "ud"))
        __asm__ volatile("ud2");
    if (!strcmp(what, "divide"))
        __asm__ volatile("xor %%edx, %%edx\n\tmov $1, %%eax\n\tdivl %0" : : "m"(zero) : "eax", "edx");
    if (!strcmp(what, "halt"))
        __asm__ volatile("hlt");
    return 99;
}
