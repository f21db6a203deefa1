//! Whether the index is what the log says.

use super::change::Entry;
use super::{KeyedRows, Place, RowsError};

impl KeyedRows {
    /// What is wrong with the index, which the log knows: whether each row that is there lies where the index has it, and no other does. Of what is durable: changes since the last commit are in neither.
    ///
    /// # Errors
    /// [`RowsError`] where log or index cannot be read.
    pub fn check(&mut self) -> Result<Option<String>, RowsError> {
        if let Some(reason) = self.index.unsound().filter(|_| self.begun) {
            let path = self.index.path();
            return Ok(Some(format!(
                "the index '{}' was damaged ({reason}), and has been made anew from the log",
                path.display()
            )));
        }
        let mut wrong = None;
        for segment in self.journal.segments() {
            let (live, index) = (&self.live, &self.index);
            let mut failed = None;
            let scanned = self.reader.scan(segment, |record| {
                if wrong.is_some() || !live.get(record.number) {
                    return Ok(());
                }
                let looked = Entry::read(record.payload).map_err(RowsError::from).and_then(|entry| match entry {
                    Entry::Change(change) => Ok(Some((index.place(&change.event.key)?, change.event.key))),
                    Entry::Note(_) => Ok(None),
                });
                match looked {
                    Ok(Some((place, key))) => {
                        let own = Place { number: record.number, offset: record.offset };
                        if place != Some(own) {
                            wrong = Some(format!("it has the row '{key}' in another place than the log"));
                        }
                        Ok(())
                    }
                    Ok(None) => Ok(()),
                    Err(error) => {
                        failed = Some(error);
                        Err(String::new())
                    }
                }
            });
            if let Some(error) = failed {
                return Err(error);
            }
            scanned?;
        }
        let keys = self.index.keys()?;
        let rows = self.live.count();
        if wrong.is_none() && keys.iter().any(|keys| *keys != rows) {
            wrong = Some(format!("it has {keys:?} keys, and the log {rows} rows"));
        }
        Ok(wrong.map(|wrong| {
            let path = self.index.path();
            format!("the index '{}' is damaged: {wrong}; remove it, it is made anew from the log", path.display())
        }))
    }
}
