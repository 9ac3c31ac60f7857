/* SPDX-License-Identifier: Apache-2.0 */
/*
 * First and only words of a guest that asks for an attestation report: the
 * report in hexadecimal between REPORT and END. Argument: up to 64 bytes of
 * text that the report is to carry. See linux/sev-guest.h, whose structures
 * these are; not every machine that builds this has that header.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#define REPORT_BYTES 1184

struct report_request {
    uint8_t data[64];
    uint32_t vmpl;
    uint8_t reserved[28];
};

struct report_answer {           /* MSG_REPORT_RSP, SEV-SNP firmware ABI 7.3 */
    uint32_t status;
    uint32_t size;
    uint8_t reserved[24];
    uint8_t report[REPORT_BYTES];
    uint8_t rest[4000 - 32 - REPORT_BYTES];
};

struct guest_request {
    uint8_t version;
    uint64_t request;
    uint64_t answer;
    uint64_t error;
};

#define GET_REPORT _IOWR('S', 0, struct guest_request)

int main(int argc, char **argv)
{
    static struct report_answer answer;
    struct report_request request = { .vmpl = 0 };
    struct guest_request call = {
        .version = 1,
        .request = (uintptr_t)&request,
        .answer = (uintptr_t)&answer,
    };
    int fd = open("/dev/sev-guest", O_RDWR);

    if (fd < 0 || argc != 2 || strlen(argv[1]) > sizeof(request.data)) {
        printf("no /dev/sev-guest, or wrong argument\n");
        return 1;
    }
    memcpy(request.data, argv[1], strlen(argv[1]));
    if (ioctl(fd, GET_REPORT, &call) != 0 || answer.status != 0 ||
        answer.size != REPORT_BYTES) {
        printf("no report: errno %d, error %llx, status %u, %u bytes\n", errno,
               (unsigned long long)call.error, answer.status, answer.size);
        return 1;
    }
    printf("REPORT\n");
    for (int i = 0; i < REPORT_BYTES; i++) {
        printf("%02x%s", answer.report[i], i % 32 == 31 ? "\n" : "");
    }
    printf("END\n");
    return 0;
}
