//! A subject without its types, so that all are in one list.

use std::path::Path;

use anyhow::Result;

use crate::part::{Outcome, Part};
use crate::play;
use crate::stage::Stage;
use crate::storm::part;
use crate::subject::{Guard, Home, Place, Subject};
use crate::work::Work;

/// A subject without its types.
pub trait Player: Sync {
    fn name(&self) -> String;
    fn note(&self) -> &'static str;
    fn home(&self) -> Home;
    fn does(&self, work: Work) -> bool;
    fn does_crowds(&self) -> bool;
    fn missing(&self) -> Option<String>;
    fn create(&self, place: &Place) -> Result<Guard>;
    fn can_be_opened_again(&self) -> bool;
    /// Plays a part in the kill storm.
    fn weather(&self, orders: &part::Orders) -> Result<()>;
    /// Plays one part to its end.
    fn play(&self, part: &Part, folder: &Path, stage: &Stage) -> Result<Outcome>;
}

impl<S: Subject> Player for S {
    fn name(&self) -> String {
        Subject::name(self)
    }

    fn note(&self) -> &'static str {
        Subject::note(self)
    }

    fn home(&self) -> Home {
        Subject::home(self)
    }

    fn does(&self, work: Work) -> bool {
        Subject::does(self, work)
    }

    fn does_crowds(&self) -> bool {
        Subject::does_crowds(self)
    }

    fn missing(&self) -> Option<String> {
        Subject::missing(self)
    }

    fn create(&self, place: &Place) -> Result<Guard> {
        Subject::create(self, place)
    }

    fn can_be_opened_again(&self) -> bool {
        Subject::can_be_opened_again(self)
    }

    fn weather(&self, orders: &part::Orders) -> Result<()> {
        part::play(self, orders)
    }

    fn play(&self, part: &Part, folder: &Path, stage: &Stage) -> Result<Outcome> {
        play::play(self, part, folder, stage)
    }
}
