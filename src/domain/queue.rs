//! Named queues: how much of the machine the jobs of one may have at once, in which order they go, and whether they go at all. Data only: the planner obeys it, the store keeps it.

pub use mlctl_protocol::spec::DEFAULT_QUEUE;
use mlctl_protocol::spec::Resources;
use serde::{Deserialize, Serialize};

use super::{Change, rules::Problem};

/// The longest name, in characters.
pub const MAX_QUEUE_NAME: usize = 100;

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// What its jobs may have at once.
    pub limits: QueueLimits,
    /// In which order they start.
    pub order: Order,
    /// Whether they start, and whether more may come.
    pub flow: Flow,
}

impl Queue {
    /// One without limits, which is open.
    #[must_use]
    pub fn open(name: impl Into<String>) -> Self {
        Self { name: name.into(), limits: QueueLimits::default(), order: Order::default(), flow: Flow::default() }
    }
}

impl Queue {
    /// Why it takes no job that needs so much.
    #[must_use]
    pub fn refusal(&self, needs: &Resources) -> Option<Problem> {
        let Self { name, limits, flow, .. } = self;
        if *flow == Flow::Draining {
            let hint = format!("choose another, or open it again with `mlctl queue resume {name}`");
            return Some(Problem::new("queue", format!("queue {name} is draining: it takes no more jobs"), hint));
        }
        let limits = [
            ("queue", "jobs", 1, limits.running.into_iter().chain(limits.per_user).min()),
            ("resources.cpus", "cores", needs.cpus, limits.cpus),
            ("resources.gpus", "GPUs", needs.gpus, limits.gpus),
        ];
        let (path, what, needed, limit) =
            limits.into_iter().find(|(_, _, needed, limit)| limit.is_some_and(|limit| *needed > limit))?;
        let limit = limit.unwrap_or_default();
        let message = format!("queue {name} gives its jobs {limit} {what} at once, and this one needs {needed}");
        let hint = format!("ask for less, or raise the limit: `mlctl queue set {name} --help`");
        Some(Problem::new(path, message, hint))
    }
}

/// What is wrong with a queue that has no row: the default one alone needs none.
#[must_use]
pub fn missing(name: &str) -> Option<Problem> {
    let hint = format!("`mlctl queue set {name}` makes one");
    (name != DEFAULT_QUEUE).then(|| Problem::new("queue", format!("there is no queue {name}"), hint))
}

/// What the running jobs of a queue may have at once, all together; no limit where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueLimits {
    /// Jobs.
    pub running: Option<u32>,
    /// Cores.
    pub cpus: Option<u32>,
    /// GPUs.
    pub gpus: Option<u32>,
    /// Jobs of one user.
    pub per_user: Option<u32>,
}

/// In which order the jobs of a queue start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// One that has no room yet is passed by those behind it that do not delay it.
    #[default]
    BestEffort,
    /// One that has no room yet holds back all behind it in its queue.
    Strict,
}

impl Order {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BestEffort => "best-effort",
            Self::Strict => "strict",
        }
    }
}

/// Whether the jobs of a queue start, and whether more may come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flow {
    /// Jobs come and start.
    #[default]
    Open,
    /// Jobs come, and none starts.
    Paused,
    /// No job is taken any more; those that are there start.
    Draining,
}

impl Flow {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Draining => "draining",
        }
    }
}

/// What becomes of a queue. What is absent stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueEdit {
    /// Jobs at once.
    pub running: Option<Change<u32>>,
    /// Cores at once.
    pub cpus: Option<Change<u32>>,
    /// GPUs at once.
    pub gpus: Option<Change<u32>>,
    /// Jobs of one user at once.
    pub per_user: Option<Change<u32>>,
    /// The order of its jobs.
    pub order: Option<Order>,
    /// Whether they start.
    pub flow: Option<Flow>,
}

impl QueueEdit {
    /// The queue after it.
    pub fn apply(&self, queue: &mut Queue) {
        let Queue { limits, order, flow, .. } = queue;
        let set = |limit: &mut Option<u32>, change: Option<Change<u32>>| {
            if let Some(change) = change {
                *limit = change.value();
            }
        };
        set(&mut limits.running, self.running);
        set(&mut limits.cpus, self.cpus);
        set(&mut limits.gpus, self.gpus);
        set(&mut limits.per_user, self.per_user);
        *order = self.order.unwrap_or(*order);
        *flow = self.flow.unwrap_or(*flow);
    }
}

/// What is wrong with the name of a queue.
#[must_use]
pub fn queue_name(name: &str) -> Option<Problem> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fine = !name.is_empty() && name.len() <= MAX_QUEUE_NAME && name.chars().all(is_fine) && !name.starts_with('.');
    (!fine).then(|| Problem {
        path: "queue".into(),
        message: format!("{name:?} is no name of a queue"),
        hint: Some("use letters, digits, `.`, `_` and `-`, at most 100, and no `.` in front".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Change;

    #[test]
    fn an_edit_changes_what_it_names() {
        let mut queue = Queue::open("night");
        let edit = QueueEdit { running: Some(Change::Set(2)), order: Some(Order::Strict), ..QueueEdit::default() };
        edit.apply(&mut queue);
        let limits = QueueLimits { running: Some(2), ..QueueLimits::default() };
        assert_eq!(queue, Queue { limits, order: Order::Strict, ..Queue::open("night") });
        QueueEdit { running: Some(Change::Clear), flow: Some(Flow::Paused), ..QueueEdit::default() }.apply(&mut queue);
        assert_eq!(queue, Queue { order: Order::Strict, flow: Flow::Paused, ..Queue::open("night") });
        QueueEdit::default().apply(&mut queue);
        assert_eq!(queue.flow, Flow::Paused);
    }

    #[test]
    fn a_queue_takes_what_it_can_ever_start() {
        let needs = Resources { cpus: 4, gpus: 1, ..Resources::NONE };
        let limits = |limits| Queue { limits, ..Queue::open("night") }.refusal(&needs).map(|problem| problem.message);
        let none = QueueLimits::default();
        assert_eq!(limits(QueueLimits { running: Some(1), cpus: Some(4), gpus: Some(1), per_user: Some(1) }), None);
        for (limits, message) in [
            (limits(QueueLimits { cpus: Some(3), ..none }), "gives its jobs 3 cores at once, and this one needs 4"),
            (limits(QueueLimits { gpus: Some(0), ..none }), "gives its jobs 0 GPUs at once, and this one needs 1"),
            (limits(QueueLimits { per_user: Some(0), ..none }), "gives its jobs 0 jobs at once, and this one needs 1"),
        ] {
            assert_eq!(limits, Some(format!("queue night {message}")));
        }
        let refusal = |flow| Queue { flow, ..Queue::open("night") }.refusal(&needs).map(|problem| problem.message);
        assert_eq!((refusal(Flow::Open), refusal(Flow::Paused)), (None, None), "a paused one keeps them");
        assert_eq!(refusal(Flow::Draining), Some("queue night is draining: it takes no more jobs".into()));
        assert!(missing("night").is_some() && missing(DEFAULT_QUEUE).is_none());
    }

    #[test]
    fn names_are_plain() {
        for fine in ["default", "night-2", "a.b_c", &"x".repeat(100)] {
            assert_eq!(queue_name(fine), None, "{fine}");
        }
        for bad in ["", ".", "..", ".hidden", "a b", "a/b", "ü", &"x".repeat(101)] {
            assert!(queue_name(bad).is_some(), "{bad}");
        }
    }
}
