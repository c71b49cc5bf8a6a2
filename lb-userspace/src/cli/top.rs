//! `podway top`: a screen of what goes where.
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::maps::Pins;
use crate::top::{Next, Page, Sample, Sampler, Sort, View, draw, text};

/// Show what goes where, anew every second: packets, bytes and new flows of backend services and endpoints, requests of
/// Ingresses, health, what is dropped and why, and how full maps are. Ends with q; h shows the keys. Without a terminal
/// it prints one screen.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  podway top\n  podway top --once --interval 5 --filter shop/web")]
pub(super) struct Top {
    /// Print one screen as text and end.
    #[arg(long)]
    once: bool,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    interval: u64,
    /// What stands first.
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
    /// Only what has this text in its name or address.
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,
    /// Where the agent pins its maps.
    #[arg(long, default_value = super::PIN_PATH)]
    pin_path: PathBuf,
    /// The agent's --run-dir, where it answers how many requests there are.
    #[arg(long, default_value = super::RUN_DIR)]
    run_dir: PathBuf,
    /// Taken by the other reading commands; refused here, with the reason.
    #[arg(long, value_name = "FILE", hide = true)]
    snapshot: Option<PathBuf>,
}

/// How long a key or a signal may wait.
const TICK: Duration = Duration::from_millis(100);
/// Most rows of a table on a screen; no terminal shows more.
const SCREEN_ROWS_MAX: usize = 500;
/// Most rows of a table in the text of `--once`.
const TEXT_ROWS_MAX: usize = 50;

/// Shows screens until it is told to end.
///
/// # Errors
/// The maps cannot be read, or the terminal cannot be used.
pub(super) fn run(top: &Top) -> Result<()> {
    if let Some(file) = &top.snapshot {
        bail!(
            "cannot show rates of {}: they need two looks, and a snapshot is one; see `podway get --snapshot`",
            file.display()
        );
    }
    let mut sampler = Sampler::open(Pins::new(&top.pin_path), top.run_dir.clone())?;
    let interval = Duration::from_secs(top.interval);
    let page = Page { sort: top.sort, filter: top.filter.clone(), ..Page::default() };
    if top.once || !io::stdout().is_terminal() {
        let earlier = sampler.sample()?;
        std::thread::sleep(interval);
        let later = sampler.sample()?;
        let view = View::of(&earlier, &later, page.sort, &page.filter, TEXT_ROWS_MAX);
        return super::print(&text(&view, &page)?);
    }
    let is_ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        // A second one ends it in any case.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&is_ended))
            .context("cannot wait for signals")?;
        signal_hook::flag::register(signal, Arc::clone(&is_ended)).context("cannot wait for signals")?;
    }
    let looks = looks(sampler, interval)?;
    // A panic restores the terminal too.
    let mut terminal = ratatui::try_init().context("cannot use the terminal; see --once")?;
    let shown = show(&looks, page, &mut terminal, &is_ended);
    ratatui::restore();
    shown
}

/// Looks from a thread of its own, so that keys wait for no look. It ends when nobody takes them any more.
fn looks(mut sampler: Sampler, interval: Duration) -> Result<Receiver<Result<Sample>>> {
    let (sender, receiver) = sync_channel(1);
    let look = move || {
        while sender.send(sampler.sample()).is_ok() {
            std::thread::sleep(interval);
        }
    };
    std::thread::Builder::new().name("looks".into()).spawn(look).context("cannot start a thread")?;
    Ok(receiver)
}

/// The last two looks, and those that are shown: others while it is paused.
#[derive(Default)]
struct Looks {
    last: Option<Arc<Sample>>,
    shown: Option<[Arc<Sample>; 2]>,
}

impl Looks {
    fn take(&mut self, sample: Sample, page: &Page) {
        let later = Arc::new(sample);
        let earlier = self.last.replace(Arc::clone(&later)).unwrap_or_else(|| Arc::clone(&later));
        if !page.is_paused || self.shown.is_none() {
            self.shown = Some([earlier, later]);
        }
    }
}

/// Waits until a key is pressed; whether the terminal is gone.
fn has_hung_up_within(patience: Duration) -> io::Result<bool> {
    let stdin = io::stdin();
    let mut terminal = [PollFd::new(&stdin, PollFlags::IN)];
    let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(patience.subsec_nanos()) };
    match poll(&mut terminal, Some(&patience)) {
        // A signal, which may be of another size.
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(terminal[0].revents().intersects(PollFlags::HUP | PollFlags::ERR))
}

fn show(
    looks: &Receiver<Result<Sample>>,
    mut page: Page,
    terminal: &mut DefaultTerminal,
    is_ended: &AtomicBool,
) -> Result<()> {
    let mut known = Looks::default();
    let mut is_new = true;
    while !is_ended.load(Ordering::Relaxed) {
        match looks.try_recv() {
            Ok(sample) => {
                known.take(sample?, &page);
                is_new = true;
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => bail!("cannot look any more: the thread that looks has ended"),
        }
        if let Some([earlier, later]) = known.shown.as_ref().filter(|_| is_new) {
            let view = View::of(earlier, later, page.sort, &page.filter, SCREEN_ROWS_MAX);
            terminal.draw(|frame| draw(frame, &view, &page)).context("cannot draw")?;
            is_new = false;
        }
        // The library reads the end of a terminal that is gone over and over, and never comes back.
        if has_hung_up_within(TICK).context("cannot wait for keys")? {
            return Ok(());
        }
        if event::poll(Duration::ZERO).context("cannot wait for keys")? {
            match event::read().context("cannot read keys")? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    if page.press(key) == Next::End {
                        return Ok(());
                    }
                    is_new = true;
                }
                Event::Resize(..) => is_new = true,
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::{Cli, run};

    #[test]
    fn a_snapshot_is_refused_since_it_is_one_look() {
        let cli = Cli::try_parse_from(["podway", "top", "--snapshot", "node.tar.gz"]).unwrap();
        let error = run(cli).unwrap_err().to_string();
        assert!(error.starts_with("cannot show rates of node.tar.gz: they need two looks"), "{error}");
    }
}
