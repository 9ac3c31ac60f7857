/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes a function anew and calls it, again and again: what runs has to be
 * what was written last. One page, so that it holds code that has run each
 * time it is written to.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(void)
{
    uint8_t *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t (*function)(void);
    uint32_t n;

    if (code == MAP_FAILED)
        return 1;
    memcpy(&function, &code, sizeof(function));
    for (n = 1;; n++) {
        code[0] = 0xb8; /* mov $n, %eax; ret */
        memcpy(code + 1, &n, sizeof(n));
        code[5] = 0xc3;
        if (function() != n) {
            printf("REWRITING failed: %u is not %u\n", function(), n);
            return 1;
        }
        if (n % 64 == 0) {
            printf("REWRITING %u\n", n / 64);
            fflush(stdout);
        }
        usleep(2000);
    }
}
