//! A table whose entries keep their place, so that a place can name a host socket.

/// Entries by place; places of removed entries are used again, the last one first.
pub(crate) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// The place that the next entry will have.
    pub(crate) fn next(&self) -> u32 {
        // Tables are bounded far below 2^32 by the limits on flows.
        self.free.last().copied().unwrap_or(self.entries.len() as u32)
    }

    pub(crate) fn insert(&mut self, entry: T) -> u32 {
        match self.free.pop() {
            Some(place) => {
                self.entries[place as usize] = Some(entry);
                place
            }
            None => {
                self.entries.push(Some(entry));
                self.entries.len() as u32 - 1
            }
        }
    }

    pub(crate) fn remove(&mut self, place: u32) -> Option<T> {
        let entry = self.entries.get_mut(place as usize)?.take();
        if entry.is_some() {
            self.free.push(place);
        }
        entry
    }

    pub(crate) fn get(&self, place: u32) -> Option<&T> {
        self.entries.get(place as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.entries.get_mut(place as usize)?.as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        (0..).zip(&mut self.entries).filter_map(|(place, entry)| Some((place, entry.as_mut()?)))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}
