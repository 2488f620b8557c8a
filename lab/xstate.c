/* Preloaded into linux.uml by lab/guest-uml: lets Debian 12's user-mode-linux (6.1) run on processors with large FPU state.
 *
 * User-mode-linux keeps the floating point state of each of its processes in a fixed buffer of 2696 bytes (AVX-512) and
 * restores it with PTRACE_SETREGSET(NT_X86_XSTATE). The host's kernel refuses a buffer that is not exactly as large as its
 * own state (EFAULT, arch/x86/kernel/fpu/regset.c: "A whole standard-format XSAVE buffer is needed"), which is 11008 bytes
 * on a processor with AMX tiles: the guest's first process dies of SIGSEGV. Reading truncates and is fine. So short writes
 * are padded with zeros here: the components behind the buffer's end are marked unused in the header that the guest has
 * read, since a process has no tiles unless it asked for them with arch_prctl(), which the guest does not pass on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define XSTATE_NOTE 0x202 /* NT_X86_XSTATE of <elf.h> */

static char whole[1 << 16] __attribute__((aligned(64)));
static size_t whole_size;

static long write_xstate(pid_t pid, void *note, struct iovec *given)
{
    struct iovec padded = {whole, sizeof whole};
    if (!whole_size) { /* the host answers with its own size */
        if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, note, &padded) < 0)
            return -1;
        whole_size = padded.iov_len;
    }
    if (given->iov_len >= whole_size)
        return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, note, given);
    memcpy(whole, given->iov_base, given->iov_len);
    memset(whole + given->iov_len, 0, whole_size - given->iov_len);
    padded.iov_len = whole_size;
    return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, note, &padded);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (request == PTRACE_SETREGSET && (unsigned long)address == XSTATE_NOTE)
        return write_xstate(pid, address, data);
    if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
        long word; /* the library's ptrace() returns the word, the system call stores it */
        if (syscall(SYS_ptrace, request, pid, address, &word) < 0)
            return -1;
        errno = 0;
        return word;
    }
    return syscall(SYS_ptrace, request, pid, address, data);
}
