//! Which granules of a chunk are taken: one bit each, runs found a word at a time.
//!
//! First fit from the lowest free granule, rather than next fit: a granule just freed is taken again first, so few pages of
//! a chunk are ever touched. Each first touch of a `memfd_secret` page makes the kernel change its direct map and flush the
//! TLB (some 10 microseconds), and splits that map for good.

const WORD: usize = u64::BITS as usize;

pub(super) struct Bitmap {
    words: Vec<u64>,
    free: usize,
    /// Nothing below this granule is free.
    low: usize,
}

impl Bitmap {
    /// All free. `granules` is a multiple of 64: chunks are whole pages, and a page has at least 64 granules.
    pub fn new(granules: usize) -> Self {
        debug_assert_eq!(granules % WORD, 0);
        Self { words: vec![0; granules / WORD], free: granules, low: 0 }
    }

    /// Takes the lowest run of `n` free granules and says where it starts.
    pub fn take(&mut self, n: usize) -> Option<usize> {
        if n > self.free {
            return None;
        }
        self.low = self.next(false, self.low, self.len());
        let mut start = self.low;
        while start + n <= self.len() {
            let end = self.next(true, start, start + n);
            if end == start + n {
                self.mark(true, start, n);
                if start == self.low {
                    self.low = end;
                }
                return Some(start);
            }
            start = self.next(false, end, self.len());
        }
        None
    }

    /// Frees a run that `take` gave out.
    pub fn give_back(&mut self, start: usize, n: usize) {
        self.mark(false, start, n);
        self.low = self.low.min(start);
    }

    pub fn taken(&self) -> usize {
        self.len() - self.free
    }

    fn len(&self) -> usize {
        self.words.len() * WORD
    }

    /// The first granule in `from..until` that is taken, or that is free; `until` where there is none.
    fn next(&self, taken: bool, from: usize, until: usize) -> usize {
        let flip = if taken { 0 } else { u64::MAX };
        let mut at = from;
        while at < until {
            let bits = (self.words[at / WORD] ^ flip) >> (at % WORD);
            if bits != 0 {
                return until.min(at + bits.trailing_zeros() as usize);
            }
            at += WORD - at % WORD;
        }
        until
    }

    fn mark(&mut self, taken: bool, start: usize, n: usize) {
        let (mut at, end) = (start, start + n);
        while at < end {
            let count = (WORD - at % WORD).min(end - at);
            let mask = (u64::MAX >> (WORD - count)) << (at % WORD);
            let word = &mut self.words[at / WORD];
            debug_assert_eq!(*word & mask, if taken { 0 } else { mask }, "a granule is taken once and freed once");
            *word = if taken { *word | mask } else { *word & !mask };
            at += count;
        }
        self.free = if taken { self.free - n } else { self.free + n };
    }
}
