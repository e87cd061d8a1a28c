//! A live view of a migration or snapshot: redrawn in place on a terminal, elsewhere an object for each change, or a line for each change of phase
//! or round and one a second for the numbers.

use std::fmt;
use std::io::{IsTerminal, stdout};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::{
    follow::{Watcher, status_of},
    messages::Messages,
    values::Size,
};

/// What is watched, on standard output.
pub(super) struct Watch {
    name: String,
    messages: Messages,
    /// Where it is redrawn in place.
    screen: Option<ProgressBar>,
    /// What was told last elsewhere.
    told: Option<Told>,
}

#[derive(Default)]
struct Told {
    text: String,
    /// For people: the phase and the round.
    step: Option<(&'static str, u64)>,
    at_ms: u64,
}

impl Watch {
    /// A view of what happens to the VM `name`.
    pub(super) fn new(name: String, messages: Messages) -> Self {
        let on_screen = !messages.is_json() && stdout().is_terminal();
        Self {
            name,
            messages,
            screen: on_screen.then(|| screen(ProgressDrawTarget::stdout())),
            told: None,
        }
    }

    /// Whether there is more to tell than that time has passed, or to people bytes too few to be seen in a line, or numbers alone within a
    /// second of the last ones.
    fn is_news(&mut self, account: &Value, standing: &Standing) -> bool {
        let told = if self.messages.is_json() {
            let mut account = account.clone();
            if let Some(members) = account.as_object_mut() {
                members.remove("total-time");
            }
            Told {
                text: account.to_string(),
                ..Told::default()
            }
        } else {
            Told {
                text: standing.to_string(),
                step: Some((standing.phase, standing.round)),
                at_ms: standing.passed_ms,
            }
        };
        let is_news = self.told.as_ref().is_none_or(|last| {
            let numbers_alone = told.step.is_some() && told.step == last.step;
            told.text != last.text && !(numbers_alone && told.at_ms < last.at_ms + 1000)
        });
        if is_news {
            self.told = Some(told);
        }
        is_news
    }
}

fn screen(target: ProgressDrawTarget) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg}").expect("a template");
    ProgressBar::with_draw_target(None, target).with_style(style)
}

impl Watcher for Watch {
    fn look(&mut self, account: &Value) {
        let standing = Standing::of(account);
        if let Some(screen) = &self.screen {
            screen.set_message(Panel(&self.name, &standing).to_string());
        } else if self.is_news(account, &standing) {
            let object = json!({ "event": "progress", "name": self.name, "migration": account });
            // What is told in between is missed by nobody: the command's result says how it ended.
            let _ = self.messages.result(&standing, &object);
        }
    }

    fn end(&mut self, account: Option<&Value>) {
        if let Some(account) = account {
            self.look(account);
        }
        if let Some(screen) = self.screen.take() {
            screen.abandon();
        }
    }
}

/// What an account says, in the units in which people read it.
struct Standing {
    phase: &'static str,
    round: u64,
    sent: Size,
    left: Size,
    total: Size,
    writes_per_second: Size,
    takes_per_second: Size,
    expected_pause_ms: Option<u64>,
    pause_us: Option<u64>,
    passed_ms: u64,
    to: Option<String>,
    /// It is the receiver's side, which does not know what is left.
    arrives: bool,
}

impl Standing {
    fn of(account: &Value) -> Self {
        let ram = &account["ram"];
        let number = |name: &str| ram[name].as_u64().unwrap_or_default();
        let megabits = ram["mbps"].as_f64().unwrap_or_default();
        Self {
            phase: status_of(account).qmp_name(),
            round: number("dirty-sync-count"),
            sent: Size(number("transferred")),
            left: Size(number("remaining")),
            total: Size(number("total")),
            writes_per_second: Size(number("dirty-pages-rate").saturating_mul(number("page-size"))),
            takes_per_second: Size(bytes(megabits)),
            expected_pause_ms: account["expected-downtime"].as_u64(),
            pause_us: account["x-tern-downtime-us"].as_u64(),
            passed_ms: account["total-time"].as_u64().unwrap_or_default(),
            to: account["x-tern-to"].as_str().map(str::to_owned),
            arrives: account["x-tern-listening"].is_string(),
        }
    }

    fn pause(&self) -> Option<String> {
        match (self.pause_us, self.expected_pause_ms) {
            (Some(pause), _) => Some(format!("{}.{} ms", pause / 1000, pause % 1000 / 100)),
            (None, Some(expected)) => Some(format!("{expected} ms expected")),
            (None, None) => None,
        }
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a conversion of floats saturates, and a rate for people needs no more"
)]
fn bytes(megabits: f64) -> u64 {
    (megabits * 1e6 / 8.0) as u64
}

impl fmt::Display for Standing {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.phase)?;
        if self.round > 0 {
            write!(f, ", round {}", self.round)?;
        }
        if self.arrives {
            write!(f, ": {} received", self.sent)?;
        } else if self.total.0 > 0 {
            write!(f, ": {} sent, {} of {} left", self.sent, self.left, self.total)?;
        }
        if self.takes_per_second.0 > 0 {
            write!(f, ", the connection takes {}/s", self.takes_per_second)?;
        }
        if self.writes_per_second.0 > 0 {
            write!(f, ", the guest writes {}/s", self.writes_per_second)?;
        }
        match self.pause() {
            Some(pause) => write!(f, ", pause {pause}"),
            None => Ok(()),
        }
    }
}

/// The VM and how it stands, in lines of a fixed place.
struct Panel<'a>(&'a str, &'a Standing);

impl fmt::Display for Panel<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WIDTH: u64 = 30;
        let Self(name, standing) = self;
        let to = standing.to.as_deref().map(|to| format!(" -> {to}")).unwrap_or_default();
        writeln!(
            f,
            "{name}{to}  {}.{} s",
            standing.passed_ms / 1000,
            standing.passed_ms % 1000 / 100
        )?;
        let round = standing.round;
        if standing.arrives {
            writeln!(f, "{}", standing.phase)?;
            writeln!(f, "  round         {round}")?;
            return write!(f, "  received      {} of {} of memory", standing.sent, standing.total);
        }
        let done = standing.total.0.saturating_sub(standing.left.0);
        let filled = done
            .saturating_mul(WIDTH)
            .checked_div(standing.total.0)
            .unwrap_or(0)
            .min(WIDTH);
        let bar: String = (0..WIDTH).map(|at| if at < filled { '#' } else { '.' }).collect();
        writeln!(f, "[{bar}] {}", standing.phase)?;
        writeln!(f, "  round         {round}")?;
        writeln!(f, "  sent          {}", standing.sent)?;
        writeln!(f, "  left          {} of {}", standing.left, standing.total)?;
        writeln!(f, "  guest writes  {}/s", standing.writes_per_second)?;
        writeln!(f, "  connection    {}/s", standing.takes_per_second)?;
        write!(f, "  pause         {}", standing.pause().as_deref().unwrap_or("-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::InMemoryTerm;

    fn account(remaining: u64) -> Value {
        json!({
            "status": "active", "total-time": 12_345, "expected-downtime": 7, "x-tern-to": "tcp:h:1",
            "ram": {
                "transferred": 300 << 20, "remaining": remaining, "total": 256 << 20, "dirty-sync-count": 2,
                "dirty-pages-rate": 256, "page-size": 4096, "mbps": 838.860_8,
            },
        })
    }

    #[test]
    fn a_line_says_how_it_stands_and_leaves_out_what_is_not_known_yet() {
        assert_eq!(
            Standing::of(&account(64 << 20)).to_string(),
            "active, round 2: 300 MiB sent, 64 MiB of 256 MiB left, the connection takes 100 MiB/s, the guest writes 1 MiB/s, \
             pause 7 ms expected"
        );
        assert_eq!(
            Standing::of(&json!({ "status": "setup", "total-time": 1 })).to_string(),
            "setup"
        );
    }

    #[test]
    fn a_receiver_says_what_has_come_and_not_what_is_left() {
        let mut account = account(0);
        account["x-tern-to"] = Value::Null;
        account["x-tern-listening"] = json!("tcp:h:1");
        let standing = Standing::of(&account);
        assert!(
            standing.to_string().starts_with("active, round 2: 300 MiB received"),
            "{standing}"
        );
        let panel = Panel("a", &standing).to_string();
        assert!(
            panel.contains("received      300 MiB") && !panel.contains("left"),
            "{panel}"
        );
    }

    /// What is news where there is no screen after an account of 64 MiB left, of these.
    fn news<const N: usize>(json: bool, accounts: [Value; N]) -> [bool; N] {
        let mut watch = Watch {
            name: "a".to_owned(),
            messages: Messages::new(json),
            screen: None,
            told: None,
        };
        let mut is_news = |account: Value| watch.is_news(&account, &Standing::of(&account));
        assert!(is_news(account(64 << 20)));
        accounts.map(is_news)
    }

    /// An account of so much later.
    fn later(ms: u64, remaining: u64) -> Value {
        let mut account = account(remaining);
        account["total-time"] = json!(12_345 + ms);
        account
    }

    #[test]
    fn the_passing_of_time_alone_is_no_news_and_to_people_neither_is_a_byte() {
        let a_byte_more = later(10_000, (32 << 20) + 1);
        let accounts = [later(5000, 64 << 20), later(5000, (32 << 20) + 2), a_byte_more];
        assert_eq!(news(true, accounts.clone()), [false, true, true]);
        // Both read 32.0 MiB.
        assert_eq!(news(false, accounts), [false, true, false]);
    }

    #[test]
    fn people_are_told_numbers_once_a_second_and_a_new_round_at_once() {
        let mut round = later(400, 8 << 20);
        round["ram"]["dirty-sync-count"] = json!(3);
        let accounts = [
            later(200, 32 << 20),
            round,
            later(600, 4 << 20),
            later(1400, 2 << 20),
            later(1600, 1 << 20),
        ];
        let mut accounts = accounts;
        for account in &mut accounts[2..] {
            account["ram"]["dirty-sync-count"] = json!(3);
        }
        assert_eq!(news(false, accounts.clone()), [false, true, false, true, false]);
        assert_eq!(news(true, accounts), [true; 5]);
    }

    #[test]
    fn a_screen_is_redrawn_in_place_and_its_last_state_stays() {
        let terminal = InMemoryTerm::new(20, 80);
        let mut watch = Watch {
            name: "a".to_owned(),
            messages: Messages::new(false),
            screen: Some(screen(ProgressDrawTarget::term_like(Box::new(terminal.clone())))),
            told: None,
        };
        watch.look(&account(128 << 20));
        let first = terminal.contents();
        assert!(
            first.starts_with("a -> tcp:h:1  12.3 s\n[###############...............] active\n"),
            "{first}"
        );
        watch.end(Some(&account(0)));
        let last = terminal.contents();
        assert_eq!(last.lines().count(), 8, "{last}");
        assert!(
            last.contains("[##############################]") && last.contains("left          0 B of 256 MiB"),
            "{last}"
        );
    }

    #[test]
    fn no_account_whatever_breaks_the_view() {
        for odd in [
            json!(null),
            json!({ "ram": 7 }),
            json!({ "ram": { "remaining": u64::MAX, "total": 1, "mbps": -1.0 } }),
        ] {
            let standing = Standing::of(&odd);
            assert!(!Panel("a", &standing).to_string().is_empty() && standing.phase == "none");
        }
    }
}
