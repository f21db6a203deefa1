//! Reused memory that starts on a cache line, so that no vector load crosses one.

/// A growing buffer whose slice starts at a multiple of 64 bytes.
#[derive(Debug, Default)]
pub struct Buffer<T> {
    data: Vec<T>,
    start: usize,
}

const LINE: usize = 64;

impl<T: Copy + Default> Buffer<T> {
    /// Values held beside those asked for, at most.
    pub const SLACK: usize = LINE / size_of::<T>();

    /// The first `len` values, whatever they hold; grows when it must.
    pub fn take(&mut self, len: usize) -> &mut [T] {
        let slack = Self::SLACK;
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

    /// All values that it has grown to.
    pub fn all(&mut self) -> &mut [T] {
        &mut self.data[self.start..]
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

/// A copy starts on a line of its own.
impl<T: Copy + Default> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut copy = Buffer::default();
        let values = &self.data[self.start..];
        copy.take(values.len()).copy_from_slice(values);
        copy
    }
}
