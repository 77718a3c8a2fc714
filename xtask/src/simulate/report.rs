//! The figures of a run, for people and programs. Without real times: the same seed gives the same figures.

use std::collections::BTreeMap;
use std::fmt;

use clap::ValueEnum;
use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use serde::Serialize;

use super::agenda::{MS, SECOND, Time};
use super::faults::Trouble;
use super::ledger::{End, Excuse};
use super::plan::{LIMIT, Plan};
use super::world::World;

#[derive(Debug, Default, Serialize)]
pub struct Report {
    seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    broken: Option<String>,
    hosts: u32,
    servers: u8,
    partitions: u16,
    seconds: u64,
    /// How long it took afterwards until everything was settled.
    drained_after_s: Option<u64>,
    events: u64,
    trouble: BTreeMap<&'static str, u64>,
    messages: Messages,
    excluded: Excluded,
    not_accepted: NotAccepted,
    work: Work,
    /// From acceptance to the answer, in milliseconds.
    answered_after_ms: Spread,
    violations: u64,
    found: Vec<String>,
}

/// Of those that a sender was told are accepted.
#[derive(Debug, Default, Serialize)]
struct Messages {
    accepted: u64,
    done: u64,
    dead_letters: u64,
    excluded: u64,
    lost: u64,
}

/// Those that were lost as their guarantee says, by reason.
#[derive(Debug, Default, Serialize)]
struct Excluded {
    host_rebooted: u64,
    message_erased_with_power: u64,
    answer_erased_with_power: u64,
    sequence_reused_after_that: u64,
}

/// Those of which nobody was told that they are accepted.
#[derive(Debug, Default, Serialize)]
struct NotAccepted {
    refused: u64,
    done_all_the_same: u64,
    not_done: u64,
}

/// What the guarantees cost, and what they caught.
#[derive(Debug, Default, Serialize)]
struct Work {
    deliveries: u64,
    redeliveries: u64,
    worked_again: u64,
    second_answers_refused: u64,
    leases_lost: u64,
    duplicates_refused: u64,
    stored_again_after_the_window: u64,
    stored_again_after_a_clock_jump: u64,
    stored_again_after_loss: u64,
    elections: u64,
}

#[derive(Debug, Default, Serialize)]
struct Spread {
    p50: u64,
    p99: u64,
    max: u64,
}

impl Report {
    /// Closes the accounts.
    pub fn of(mut world: World) -> Self {
        let mut report = Self::sizes(&world.plan);
        report.events = world.agenda.added();
        report.check_drained(&mut world);
        for message in world.ledger.messages() {
            let answer = world.final_answer(world.ledger.answers_of(message), message);
            let end = world.ledger.close(message, answer);
            report.count(end);
        }
        let ledger = &world.ledger;
        report.not_accepted.refused = ledger.refused;
        report.trouble = Trouble::ALL
            .into_iter()
            .map(|trouble| (trouble.name(), world.faults.counts[trouble as usize]))
            .collect();
        let again = ledger.stored_again;
        report.work = Work {
            deliveries: ledger.deliveries,
            redeliveries: ledger.redeliveries,
            worked_again: ledger.worked_again,
            second_answers_refused: ledger.second_answers,
            leases_lost: ledger.leases_lost,
            duplicates_refused: ledger.duplicates,
            stored_again_after_the_window: again.after_the_window,
            stored_again_after_a_clock_jump: again.after_a_clock_jump,
            stored_again_after_loss: again.after_loss,
            elections: ledger.elections,
        };
        report.answered_after_ms = Spread::of(&ledger.times_to_answer());
        report.violations = ledger.violations.count;
        report.found.clone_from(&ledger.violations.found);
        report
    }

    fn sizes(plan: &Plan) -> Self {
        let broken = plan.broken.and_then(|broken| broken.to_possible_value());
        Self {
            seed: plan.seed,
            broken: broken.map(|value| value.get_name().to_owned()),
            hosts: plan.hosts,
            servers: plan.servers,
            partitions: plan.partitions,
            seconds: plan.seconds,
            ..Self::default()
        }
    }

    fn check_drained(&mut self, world: &mut World) {
        if world.is_quiet() {
            let after = world.agenda.now() - world.plan.calm_at();
            self.drained_after_s = Some(after / SECOND);
            return;
        }
        let hosts = world.hosts.iter().filter(|host| !host.is_quiet()).count();
        let held = |partition| {
            world
                .leader(partition)
                .map_or(LIMIT, |leader| leader.stream().len())
        };
        let held: usize = (0..world.plan.partitions).map(held).sum();
        let complaint = || format!("not drained: {hosts} hosts, and {held} messages in partitions");
        world.ledger.violations.add(complaint);
    }

    fn count(&mut self, end: End) {
        let count = match end {
            End::Done => &mut self.messages.done,
            End::DeadLetter => &mut self.messages.dead_letters,
            End::Lost => &mut self.messages.lost,
            End::Excluded(excuse) => {
                self.messages.excluded += 1;
                self.messages.accepted += 1;
                *self.excluded.by(excuse) += 1;
                return;
            }
            End::NotAccepted { is_done: true } => {
                self.not_accepted.done_all_the_same += 1;
                return;
            }
            End::NotAccepted { is_done: false } => {
                self.not_accepted.not_done += 1;
                return;
            }
        };
        *count += 1;
        self.messages.accepted += 1;
    }

    /// Whether everything is as promised.
    pub fn is_clean(&self) -> bool {
        self.violations == 0
    }
}

impl Excluded {
    fn by(&mut self, excuse: Excuse) -> &mut u64 {
        match excuse {
            Excuse::Reboot => &mut self.host_rebooted,
            Excuse::MessageErased => &mut self.message_erased_with_power,
            Excuse::AnswerErased => &mut self.answer_erased_with_power,
            Excuse::SequenceReused => &mut self.sequence_reused_after_that,
        }
    }
}

impl Spread {
    fn of(sorted: &[Time]) -> Self {
        let rank = |percent: usize| {
            let index = sorted.len().saturating_sub(1) * percent / 100;
            sorted.get(index).map_or(0, |time| time / MS)
        };
        Self {
            p50: rank(50),
            p99: rank(99),
            max: rank(100),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broken = self
            .broken
            .as_ref()
            .map_or(String::new(), |name| format!(", broken: {name}"));
        writeln!(
            f,
            "{} hosts, {} partitions on {} servers, {} s of trouble, seed {}{broken}",
            self.hosts, self.partitions, self.servers, self.seconds, self.seed
        )?;
        // The same names as in JSON, so that whoever reads one can find it in the other.
        let sections = serde_json::to_value(self).map_err(|_| fmt::Error)?;
        for section in [
            "trouble",
            "messages",
            "excluded",
            "not_accepted",
            "work",
            "answered_after_ms",
        ] {
            writeln!(f, "{}", table(section, &sections[section]))?;
        }
        match self.drained_after_s {
            Some(after) => writeln!(
                f,
                "drained {after} s after the last trouble; {} events",
                self.events
            )?,
            None => writeln!(f, "NOT DRAINED; {} events", self.events)?,
        }
        for found in &self.found {
            writeln!(f, "  {found}")?;
        }
        let verdict = if self.is_clean() { "clean" } else { "BROKEN" };
        write!(f, "{} violations: {verdict}", self.violations)
    }
}

fn table(title: &str, figures: &serde_json::Value) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE).force_no_tty();
    table.set_header([&title.replace('_', " "), ""]);
    for (name, figure) in figures.as_object().into_iter().flatten() {
        table.add_row([name.replace('_', " "), figure.to_string()]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('═'));
