/*
 * smpcheck [MIB [RATE [SEED [BEAT]]]]
 *
 * One process for each processor, bound to it, checks over and over what a
 * processor needs to go on as if nothing had happened:
 *
 *   - no clock goes back, on its processor or from one to the next;
 *   - a high-resolution timer of its own is always pending, and comes when it
 *     is due and not before;
 *   - interrupts reach the other processors: membarrier(2), and a futex by
 *     which each wakes the next one;
 *   - the registers of x87, SSE and, where the kernel offers it, AVX keep what
 *     was put into them, over interrupts and system calls;
 *   - where the kernel offers XSAVE, XCR0 stays what it was, and XSAVE stores
 *     what the registers hold and XRSTOR loads it;
 *   - its part of MIB mebibytes holds what was written there, as memcheck's
 *     does, while RATE MiB/s of it are rewritten.
 *
 * Every BEAT milliseconds there is a heartbeat with the counts of all. On the
 * console: v verifies all memory, r restarts the guest, q ends the program.
 * Whatever is wrong is told in a line with the word BAD.
 */
#include "mini.h"
#include "pattern.h"

#define MONOTONIC 1
#define MAX_CPUS 64
/* far longer than anything takes: what has not come by then never will */
#define PATIENCE 120000000000ull
#define TIMER_NS 7300001ull
#define CLOCKS 3

static const int clocks[CLOCKS] = { 1, 4, 7 };	/* monotonic, raw, boot time */

struct worker {
	u32 mail;		/* how often the one before has written; a futex */
	u32 verifies;		/* how often all of the memory has been verified */
	u64 rounds, timers, mails, xsaves, pages_bad;
} __attribute__((aligned(128)));

static struct shared {
	u64 latest[CLOCKS];	/* the latest that anybody has seen of each clock */
	u32 verifies;		/* how often the memory is to be verified */
	struct worker worker[MAX_CPUS];
} *all;

static u64 seed, rate;
static int cpus, avx, xsave;

static void clocks_go_on(int me)
{
	for (int i = 0; i < CLOCKS; i++) {
		u64 seen = __atomic_load_n(&all->latest[i], __ATOMIC_SEQ_CST);
		u64 t = now(clocks[i]);

		if (t < seen)
			say("clock BAD cpu %u clock %u is %t and was %t\n", (u64)me,
			    (u64)clocks[i], t, seen);
		while (seen < t && !__atomic_compare_exchange_n(&all->latest[i], &seen, t,
				0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			;
	}
}

struct itimerspec_ { struct __kernel_timespec interval, value; };

static u64 arm(int fd)
{
	u64 due = now(MONOTONIC) + TIMER_NS;
	struct itimerspec_ t = { .value = { due / 1000000000, due % 1000000000 } };

	if (SYS(__NR_timerfd_settime, fd, 1, &t, 0, 0, 0))
		say("timer BAD cannot be set\n");
	return due;
}

static u64 timer_comes(int me, int fd, u64 due)
{
	u64 count, t;

	if (SYS3(__NR_read, fd, &count, 8) == 8) {
		t = now(MONOTONIC);
		if (t < due)
			say("timer BAD cpu %u came at %t and was due at %t\n", (u64)me, t, due);
		all->worker[me].timers++;
		return arm(fd);
	}
	t = now(MONOTONIC);
	if (t > due + PATIENCE) {
		say("timer BAD cpu %u was due at %t and has not come at %t\n", (u64)me, due, t);
		return arm(fd);
	}
	return due;
}

static void others_are_reached(int me, u32 *mail, u64 *came)
{
	struct worker *my = &all->worker[me], *next = &all->worker[(me + 1) % cpus];
	struct __kernel_timespec patience = { 0, 5000000 };
	u32 seen;

	SYS3(__NR_membarrier, 2, 0, 0);		/* GLOBAL_EXPEDITED */
	__atomic_fetch_add(&next->mail, 1, __ATOMIC_SEQ_CST);
	SYS(__NR_futex, &next->mail, 1, 1, 0, 0, 0);
	SYS(__NR_futex, &my->mail, 0, *mail, &patience, 0, 0);
	seen = __atomic_load_n(&my->mail, __ATOMIC_SEQ_CST);
	if (seen != *mail) {
		*mail = seen;
		*came = now(MONOTONIC);
		my->mails++;
	} else if (now(MONOTONIC) > *came + PATIENCE) {
		say("mail BAD cpu %u has heard nothing since %t\n", (u64)me, *came);
		*came = now(MONOTONIC);
	}
}

/* what the registers are to hold, and what they held */
struct vectors { u64 word[16][4]; } __attribute__((aligned(64)));

/* Between loading and storing: some milliseconds of nothing, with system calls. */
#define HOLD \
	"mov $8, %%r12d\n1:\tmov $60000, %%ecx\n2:\tdec %%ecx\n\tjnz 2b\n" \
	"\tmov $24, %%eax\n\tsyscall\n\tdec %%r12d\n\tjnz 1b\n"	/* sched_yield */
#define EACH(move) \
	move(0) move(1) move(2) move(3) move(4) move(5) move(6) move(7) \
	move(8) move(9) move(10) move(11) move(12) move(13) move(14) move(15)
#define LOAD_X(n) "movdqu " #n "*32(%[in]), %%xmm" #n "\n\t"
#define STORE_X(n) "movdqu %%xmm" #n ", " #n "*32(%[out])\n\t"
#define LOAD_Y(n) "vmovdqu " #n "*32(%[in]), %%ymm" #n "\n\t"
#define STORE_Y(n) "vmovdqu %%ymm" #n ", " #n "*32(%[out])\n\t"
#define CLOBBERED "rax", "rcx", "r11", "r12", "memory", "cc", \
	"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", \
	"xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

static void registers_keep(int me)
{
	static struct vectors in, out;
	static u64 x87, round;
	u32 mxcsr = 0x1f80 | (me & 3) << 13, mxcsr_after, mxcsr_usual = 0x1f80;
	uint16_t control = 0x37f ^ (me & 3) << 10, control_after, control_usual = 0x37f;
	u64 number = mix(++round) >> 12 | 0x3ff0000000000000;
	int words = avx ? 4 : 2;

	for (int i = 0; i < 16; i++)
		for (int j = 0; j < 4; j++)
			in.word[i][j] = mix(seed + round * 64 + i * 4 + j);
	__asm__ volatile("ldmxcsr %0\n\tfldcw %1\n\tfldl %2" : : "m"(mxcsr), "m"(control), "m"(number));
	if (avx)
		__asm__ volatile(EACH(LOAD_Y) HOLD EACH(STORE_Y)
				 : : [in] "r"(&in), [out] "r"(&out) : CLOBBERED);
	else
		__asm__ volatile(EACH(LOAD_X) HOLD EACH(STORE_X)
				 : : [in] "r"(&in), [out] "r"(&out) : CLOBBERED);
	__asm__ volatile("stmxcsr %0\n\tfnstcw %1\n\tfstpl %2" : "=m"(mxcsr_after), "=m"(control_after), "=m"(x87));
	__asm__ volatile("ldmxcsr %0\n\tfldcw %1" : : "m"(mxcsr_usual), "m"(control_usual));
	for (int i = 0; i < 16; i++)
		for (int j = 0; j < words; j++)
			if (out.word[i][j] != in.word[i][j])
				say("register BAD cpu %u vector %u word %u is %x and not %x\n", (u64)me,
				    (u64)i, (u64)j, out.word[i][j], in.word[i][j]);
	/* the low bits of MXCSR are flags, which a move does not raise */
	if (mxcsr_after != mxcsr || control_after != control || x87 != number)
		say("register BAD cpu %u mxcsr %x control %x x87 %x\n", (u64)me,
		    (u64)mxcsr_after, (u64)control_after, x87);
}

static u64 xcr0(void)
{
	u32 low, high;

	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (u64)high << 32 | low;
}

/* the standard format of x87, SSE and AVX, of which the last may be missing */
struct xsave_area {
	uint16_t control, status;
	u8 tag, reserved;
	uint16_t opcode;
	u64 ip, dp;
	u32 mxcsr, mxcsr_mask;
	u64 st[8][2], xmm[16][2], unused[12];
	u64 present, header[7];
	u64 ymm_high[16][2];
} __attribute__((aligned(64)));
_Static_assert(offsetof(struct xsave_area, present) == 512, "the header");
_Static_assert(offsetof(struct xsave_area, ymm_high) == 576, "behind the header");

static void xsave_stores_and_loads(int me)
{
	static struct xsave_area area;
	static struct vectors in, out;
	static u64 round, components, x87;
	u64 number = mix(++round) >> 12 | 0x3ff0000000000000;
	u64 wanted = avx ? 7 : 3;
	u32 mask = wanted;

	if (!components)
		components = xcr0();
	if (xcr0() != components || (components & wanted) != wanted)
		say("register BAD cpu %u xcr0 %x and was %x\n", (u64)me, xcr0(), components);
	for (int i = 0; i < 16; i++)
		for (int j = 0; j < 4; j++)
			in.word[i][j] = mix(~seed + round * 64 + i * 4 + j);
	memset(&area, 0, sizeof(area));
	/* what one load of all has put there, a store finds after a while; and a load of that is the same again */
#define XSAVE_ROUND(LOAD, STORE, CLEAR) \
	__asm__ volatile("fldl %[number]\n\t" EACH(LOAD) HOLD \
		"mov %[mask], %%eax\n\txor %%edx, %%edx\n\txsave %[area]\n\tfninit\n\t" EACH(CLEAR) \
		"mov %[mask], %%eax\n\txor %%edx, %%edx\n\txrstor %[area]\n\t" EACH(STORE) "fstpl %[x87]" \
		: [area] "+m"(area), [x87] "=m"(x87) \
		: [in] "r"(&in), [out] "r"(&out), [number] "m"(number), [mask] "m"(mask) : "rdx", CLOBBERED)
#define CLEAR_X(n) "pxor %%xmm" #n ", %%xmm" #n "\n\t"
#define CLEAR_Y(n) "vpxor %%xmm" #n ", %%xmm" #n ", %%xmm" #n "\n\t"
	if (avx)
		XSAVE_ROUND(LOAD_Y, STORE_Y, CLEAR_Y);
	else
		XSAVE_ROUND(LOAD_X, STORE_X, CLEAR_X);
	if (area.present != wanted || x87 != number || area.st[0][0] != (number << 11 | 1ull << 63))
		say("xsave BAD cpu %u components %x x87 %x in memory %x\n", (u64)me, area.present, x87, area.st[0][0]);
	for (int i = 0; i < 16; i++)
		for (int j = 0; j < (avx ? 4 : 2); j++) {
			u64 stored = j < 2 ? area.xmm[i][j] : area.ymm_high[i][j - 2];

			if (stored != in.word[i][j] || out.word[i][j] != in.word[i][j])
				say("xsave BAD cpu %u vector %u word %u is %x in memory %x and not %x\n", (u64)me,
				    (u64)i, (u64)j, out.word[i][j], stored, in.word[i][j]);
		}
	all->worker[me].xsaves++;
}

static void verify(int me, const u64 *mem, const u32 *version, u64 pages)
{
	u64 my_seed = seed + ((u64)me << 32);

	for (u64 i = 0; i < pages; i++) {
		int w = check_page(mem + i * WORDS, my_seed, i, version[i]);

		if (w == WORDS)
			continue;
		if (all->worker[me].pages_bad++ < 8)
			say("verify BAD cpu %u page %u version %u word %u is %x\n", (u64)me, i,
			    (u64)version[i], (u64)w, mem[i * WORDS + w]);
	}
}

static void work(int me, int cpu, u64 mib)
{
	struct worker *my = &all->worker[me];
	u64 pages = mib << 8, next = 0, my_seed = seed + ((u64)me << 32), due, came, before, t;
	u64 *mem = map_pages(mib);
	u32 *version = map(pages * sizeof(u32), 0), mail = 0;
	u8 mask[128] = { 0 };
	int fd = SYS3(__NR_timerfd_create, MONOTONIC, 0x800, 0);

	mask[cpu / 8] = 1 << cpu % 8;
	if (SYS3(__NR_sched_setaffinity, 0, sizeof(mask), mask) < 0 || fd < 0)
		say("cpu BAD %u cannot be had\n", (u64)cpu);
	SYS3(__NR_membarrier, 4, 0, 0);		/* REGISTER_GLOBAL_EXPEDITED */
	for (u64 i = 0; i < pages; i++)
		fill_page(mem + i * WORDS, my_seed, i, 0);
	due = arm(fd);
	came = before = now(MONOTONIC);
	for (;;) {
		u32 wanted = __atomic_load_n(&all->verifies, __ATOMIC_SEQ_CST);
		u64 want;

		clocks_go_on(me);
		due = timer_comes(me, fd, due);
		others_are_reached(me, &mail, &came);
		registers_keep(me);
		if (xsave)
			xsave_stores_and_loads(me);
		t = now(MONOTONIC);
		want = (t - before) / 1000 * rate * 256 / 1000000 / cpus;
		if (want)
			before = t;
		for (want = want > pages ? pages : want; want; want--) {
			version[next]++;
			fill_page(mem + next * WORDS, my_seed, next, version[next]);
			next = next + 1 == pages ? 0 : next + 1;
		}
		if (my->verifies != wanted) {
			verify(me, mem, version, pages);
			__atomic_store_n(&my->verifies, wanted, __ATOMIC_SEQ_CST);
		}
		__atomic_store_n(&my->rounds, my->rounds + 1, __ATOMIC_SEQ_CST);
	}
}

/* Whether the kernel makes use of a feature: what CPUID says here need not be what the kernel goes by. */
static int offers(const char *feature)
{
	static char info[4096];
	long fd = SYS3(__NR_open, "/proc/cpuinfo", 0, 0);
	long n = SYS3(__NR_read, fd, info, sizeof(info) - 1);

	SYS3(__NR_close, fd, 0, 0);
	for (long i = 0; i < n; i++)
		if (after(info + i, feature))
			return 1;
	return 0;
}

/* the verdict, once every processor has one */
static void report_verified(u64 mib)
{
	static u32 told;
	u64 bad = 0;

	if (told == all->verifies)
		return;
	for (int i = 0; i < cpus; i++) {
		if (__atomic_load_n(&all->worker[i].verifies, __ATOMIC_SEQ_CST) != all->verifies)
			return;
		bad += all->worker[i].pages_bad;
	}
	told = all->verifies;
	if (bad)
		say("verify BAD %u pages\n", bad);
	else
		say("verify ok %u pages\n", (mib / cpus << 8) * cpus);
}

static void beat(void)
{
	static u64 n;
	u64 rounds[2] = { -1ull, 0 }, timers = -1ull, mails = -1ull, xsaves = -1ull;

	for (int i = 0; i < cpus; i++) {
		struct worker *w = &all->worker[i];
		u64 r = __atomic_load_n(&w->rounds, __ATOMIC_SEQ_CST);

		rounds[0] = r < rounds[0] ? r : rounds[0];
		rounds[1] = r > rounds[1] ? r : rounds[1];
		timers = w->timers < timers ? w->timers : timers;
		mails = w->mails < mails ? w->mails : mails;
		xsaves = w->xsaves < xsaves ? w->xsaves : xsaves;
	}
	say("beat %u t=%t cpus=%u rounds=%u..%u timers=%u mails=%u xsaves=%u\n", n++, now(MONOTONIC),
	    (u64)cpus, rounds[0], rounds[1], timers, mails, xsaves);
}

int start(int argc, char **argv, char **envp)
{
	u64 mib = argc > 1 ? number(argv[1], NULL) : 32;
	u64 every = (argc > 4 ? number(argv[4], NULL) : 200) * 1000000, due;
	u8 mask[128] = { 0 };

	(void)envp;
	rate = argc > 2 ? number(argv[2], NULL) : 10;
	seed = argc > 3 ? number(argv[3], NULL) : 1;
	all = map(sizeof(*all), 1);
	xsave = offers(" xsave ");
	avx = offers(" avx ");
	SYS3(__NR_sched_getaffinity, 0, sizeof(mask), mask);
	for (int cpu = 0; cpu < MAX_CPUS; cpu++)
		cpus += mask[cpu / 8] >> cpu % 8 & 1;
	for (int cpu = 0, me = 0; cpu < MAX_CPUS; cpu++) {
		if (!(mask[cpu / 8] >> cpu % 8 & 1))
			continue;
		if (!SYS3(__NR_fork, 0, 0, 0))
			work(me, cpu, mib / cpus);
		me++;
	}
	say("smpcheck: %u processors, xsave=%u, avx=%u, %u MiB\n", (u64)cpus, (u64)xsave, (u64)avx, mib);
	due = now(MONOTONIC);
	for (;;) {
		u64 t = now(MONOTONIC);
		char c = 0;

		report_verified(mib);
		if (t >= due) {
			beat();
			due = t + every;
		}
		if (!wait_input(0, 20) || SYS3(__NR_read, 0, &c, 1) != 1)
			continue;
		if (c == 'v')
			__atomic_fetch_add(&all->verifies, 1, __ATOMIC_SEQ_CST);
		else if (c == 'r')
			SYS(__NR_reboot, 0xfee1dead, 672274793, 0x01234567, 0, 0, 0);
		else if (c == 'q')
			return 0;
	}
}
