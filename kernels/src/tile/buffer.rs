//! Reused memory that starts on a cache line, so that no vector load crosses one.

/// A growing buffer whose slice starts at a multiple of 64 bytes.
#[derive(Debug, Default)]
pub struct Buffer<T> {
    data: Vec<T>,
    start: usize,
}

const LINE: usize = 64;

impl<T: Copy + Default> Buffer<T> {
    /// The first `len` values, whatever they hold; grows when it must.
    pub fn take(&mut self, len: usize) -> &mut [T] {
        let slack = LINE / size_of::<T>();
        if self.data.len() < len + slack {
            self.data = vec![T::default(); len + slack];
            // `align_offset` may decline (usize::MAX); alignment only buys speed.
            self.start = self.data.as_ptr().align_offset(LINE).min(slack);
        }
        &mut self.data[self.start..self.start + len]
    }

    /// `len` values from `start` on of those that were taken last.
    pub fn part(&self, start: usize, len: usize) -> &[T] {
        &self.data[self.start + start..][..len]
    }

    /// `len` values from `start` on of those that were taken last.
    pub fn held(&mut self, start: usize, len: usize) -> &mut [T] {
        &mut self.data[self.start + start..][..len]
    }

    /// Values that there is memory for.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// The first `len` values.
    pub fn get(&self, len: usize) -> &[T] {
        &self.data[self.start..self.start + len]
    }
}
