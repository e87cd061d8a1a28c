/* Pages whose contents follow from a seed, the page's number and its version. */
#ifndef PATTERN_H
#define PATTERN_H

#include "mini.h"

#define PAGE 4096
#define WORDS (PAGE / 8)
#define HUGE ((uintptr_t)2 << 20)

static u64 mix(u64 x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

static u64 first(u64 seed, u64 page, u32 ver)
{
	return mix(seed + page * 0x9e3779b97f4a7c15 + ((u64)ver << 40));
}

static void fill_page(u64 *p, u64 seed, u64 page, u32 ver)
{
	u64 x = first(seed, page, ver);

	for (int i = 0; i < WORDS; i++) {
		p[i] = x;
		x = x * 0x5851f42d4c957f2d + 0x14057b7ef767814f;
	}
}

/* the number of the first wrong word, or WORDS */
static int check_page(const u64 *p, u64 seed, u64 page, u32 ver)
{
	u64 x = first(seed, page, ver);

	for (int i = 0; i < WORDS; i++) {
		if (p[i] != x)
			return i;
		x = x * 0x5851f42d4c957f2d + 0x14057b7ef767814f;
	}
	return WORDS;
}

/* shared among the processes that are forked from here on, if so wished */
static void *map(u64 bytes, int shared)
{
	long p = SYS(__NR_mmap, 0, bytes, 3, shared ? 0x21 : 0x22, -1, 0);

	if (p < 0 && p > -4096) {
		say("no memory for %u bytes\n", bytes);
		SYS3(__NR_exit_group, 1, 0, 0);
	}
	return (void *)p;
}

/* memory of its own, in huge pages where the kernel has them: few page faults */
static u64 *map_pages(u64 mib)
{
	u64 *mem = map((mib + 2) << 20, 0);

	mem = (u64 *)(((uintptr_t)mem + HUGE - 1) & -HUGE);
	SYS3(__NR_madvise, mem, mib << 20, 14);	/* MADV_HUGEPAGE */
	SYS3(__NR_madvise, mem, mib << 20, 16);	/* MADV_DONTDUMP: no clearing, see the patches */
	return mem;
}
#endif
