//! Connections at the daemon's end: what `supervisor/link` and `live` do, each by itself, so that old ones and new ones overlap.

use std::{collections::VecDeque, time::Duration};

use mlctl::supervisor::core::{Answer, Effect, Event, Reason, Word};
use mlctl_protocol::{
    FencingToken, JobId,
    message::{FromWorker, Hello, ReportBody},
    progress::Progress,
};

use super::{
    daemon::{Actor, Conn, Task},
    ledger::Write,
    world::{Happening, World},
};

/// How long a heartbeat waits for a newer one before it is stored.
const BEAT_PAUSE: Duration = Duration::from_millis(200);

impl World {
    pub fn say(&mut self, token: FencingToken, line: u64, word: Word) {
        let is_full = self.fails(200);
        let Some(conn) = self.conn(line) else { return };
        if is_full {
            self.cancel(line);
            self.step(token, None, Event::Unheard { line });
        } else if conn.greeted {
            self.tell(line, word);
        } else {
            conn.orders.push_back(word);
            self.conn_soon(line);
        }
    }

    /// Says something to a worker; a refusal is the last.
    pub fn tell(&mut self, line: u64, word: Word) {
        self.send_down(line, word);
        if matches!(word, Word::Refused(_)) {
            self.cancel(line);
        }
    }

    pub fn cancel(&mut self, line: u64) {
        if let Some(conn) = self.conn(line) {
            conn.cancelled = true;
            self.conn_soon(line);
        }
    }

    pub fn conn_soon(&mut self, line: u64) {
        let (life, after) = (self.life, self.millis(3));
        self.plan(after, Happening::Conn { life, line });
    }

    /// Hands a wish over to the attempt under way, if there is one.
    pub fn hand(&mut self, job: JobId, reason: Reason) {
        let token = self.daemon.as_ref().and_then(|daemon| daemon.live.get(&job).copied());
        if let Some(token) = token {
            self.step(token, None, Event::Asked(reason));
        }
    }

    /// Whether a connection would read now.
    pub fn listens(&mut self, line: u64) -> bool {
        self.conn(line).is_none_or(|conn| conn.greeted && !conn.busy && conn.todo.is_empty())
    }

    /// A frame comes by a connection.
    pub fn hear(&mut self, line: u64, frame: FromWorker) {
        let now = self.at();
        let (life, token) = (self.life, self.conn(line).map(|conn| conn.token));
        let event = match (frame, token) {
            (FromWorker::Hello(hello), None) => return self.greet(line, &hello),
            (FromWorker::Heartbeat(heartbeat), Some(_)) => {
                let (progress, rss_bytes) = (heartbeat.progress.clone(), heartbeat.rss_bytes);
                let is_first = self.conn(line).is_some_and(|conn| conn.unkept.replace(heartbeat).is_none());
                if is_first {
                    self.plan(BEAT_PAUSE, Happening::Keep { life, line });
                }
                Event::Beat { line, progress, rss_bytes }
            }
            (FromWorker::Report(report), Some(token)) => {
                let in_file = matches!(report.body, ReportBody::Finished { .. })
                    && self.ledger.rows.get(&token).is_some_and(|row| self.file_of(row.fence).is_some());
                Event::Report { line, seq: report.seq, body: report.body, in_file }
            }
            _ => return,
        };
        let Some(token) = token else { return };
        // What comes late by a connection that was replaced is no sign of life, and a heartbeat alone renews the lease.
        let is_beat = matches!(event, Event::Beat { .. });
        if let Some(task) = self.task(token).filter(|task| is_beat && task.core.open_line() == Some(line)) {
            task.heard = now;
        }
        let effects = self.step(token, Some(line), event);
        if let Some(conn) = self.conn(line) {
            conn.todo.extend(effects);
            self.conn_goes_on(line);
        }
    }

    pub fn greet(&mut self, line: u64, hello: &Hello) {
        let now = self.at();
        let Some(daemon) = &mut self.daemon else { return };
        let token = daemon.live.get(&hello.job).copied();
        let is_known =
            |task: &Task| task.fence.attempt == hello.attempt && task.fence.token.0.to_string() == hello.secret;
        let known = token.filter(|token| daemon.tasks.get(token).is_some_and(is_known));
        let Some(token) = known else {
            self.send_down(line, Word::Refused("it is not under way here"));
            return self.close_daemon_side(line);
        };
        let conn = Conn {
            token,
            todo: VecDeque::new(),
            orders: VecDeque::new(),
            greeted: false,
            busy: false,
            cancelled: false,
            closing: false,
            unkept: None,
        };
        daemon.conns.insert(line, conn);
        if let Some(task) = self.task(token) {
            task.heard = now;
        }
        let effects = self.step(token, Some(line), Event::Dialled { line, started: hello.started });
        if let Some(conn) = self.conn(line) {
            conn.todo.extend(effects);
            self.conn_soon(line);
        }
    }

    /// The worker's end of a connection is closed, and all that it had said was heard.
    pub fn hear_end(&mut self, line: u64) {
        if self.conn(line).is_some() {
            self.cancel(line);
        } else {
            self.close_daemon_side(line);
        }
    }

    pub fn keep_beat(&mut self, line: u64) {
        let Some(conn) = self.conn(line).filter(|conn| !conn.closing && !conn.cancelled) else { return };
        let (token, unkept) = (conn.token, conn.unkept.take());
        if let Some(heartbeat) = unkept {
            self.store_beat(Actor::Beats(line), token, heartbeat.progress);
        }
    }

    pub fn store_beat(&mut self, by: Actor, token: FencingToken, progress: Progress) {
        let fence = self.ledger.rows[&token].fence;
        self.write(by, Write::Beat { fence, progress });
    }

    pub fn conn_goes_on(&mut self, line: u64) {
        loop {
            let Some(conn) = self.conn(line) else { return };
            let token = conn.token;
            if conn.cancelled && !conn.closing {
                // Whatever it waited for, nobody waits any more.
                (conn.closing, conn.busy) = (true, false);
                conn.todo.clear();
                let unkept = conn.unkept.take();
                let effects = self.step(token, Some(line), Event::HungUp { line, unkept });
                if let Some(conn) = self.conn(line) {
                    conn.todo.extend(effects);
                }
                continue;
            }
            if conn.busy {
                return;
            }
            if let Some(effect) = conn.todo.pop_front() {
                self.converse(line, token, effect);
            } else if conn.closing {
                self.daemon.as_mut().and_then(|daemon| daemon.conns.remove(&line));
                self.close_daemon_side(line);
                self.step(token, None, Event::Closed { line });
                return;
            } else {
                conn.greeted = true;
                let orders = std::mem::take(&mut conn.orders);
                if orders.is_empty() {
                    return;
                }
                orders.into_iter().for_each(|word| self.tell(line, word));
            }
        }
    }

    pub fn converse(&mut self, line: u64, token: FencingToken, effect: Effect) {
        let fence = self.ledger.rows[&token].fence;
        match effect {
            Effect::Say { word, .. } => self.tell(line, word),
            Effect::HangUp { .. } => self.cancel(line),
            Effect::KeepReport { seq, body, .. } if self.rules.acks_early => {
                self.write(Actor::None, Write::Report { fence, seq, body });
                self.answer(Actor::Conn(line), Event::Kept { line, seq, answer: Answer::Done(seq) }, 2);
            }
            Effect::KeepReport { seq, body, .. } => self.write(Actor::Conn(line), Write::Report { fence, seq, body }),
            Effect::KeepBeat { heartbeat, .. } => self.store_beat(Actor::Conn(line), token, heartbeat.progress),
            Effect::ReadJob => {
                if let Some(reason) = self.asked_of(fence.job).filter(|_| self.ledger.holds(fence)) {
                    self.step(token, None, Event::Asked(reason));
                }
            }
            other => self.broken.push(format!("{fence:?}: the connection is to do {other:?}")),
        }
    }
}
