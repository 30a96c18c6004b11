//! The inert part of WASI 0.2: what a standard library brings along, with nothing behind it. Empty environment, closed
//! input, output to a small log buffer, clocks, randomness. What would wait traps: nothing here blocks or needs a runtime.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wasmtime::{Error, Result, component::Resource};

use crate::{
    bindings::wasi::{
        cli::{
            environment, exit, stderr, stdin, stdout, terminal_input, terminal_output, terminal_stderr, terminal_stdin,
            terminal_stdout,
        },
        clocks::{monotonic_clock, wall_clock},
        io::{error, poll, streams},
        random::{insecure, insecure_seed, random},
    },
    state::State,
};
use streams::{InputStream, OutputStream, StreamError};

/// The most random bytes of one request.
const MAX_RANDOM: u64 = 64 << 10;
/// What a write may hold, as WASI's `check-write` says.
const MAX_WRITE: u64 = 4096;

impl environment::Host for State {
    fn get_environment(&mut self) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }
    fn get_arguments(&mut self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn initial_cwd(&mut self) -> Result<Option<String>> {
        Ok(None)
    }
}

impl exit::Host for State {
    fn exit(&mut self, _: std::result::Result<(), ()>) -> Result<()> {
        self.forbid("exit")
    }
    fn exit_with_code(&mut self, _: u8) -> Result<()> {
        self.forbid("exit")
    }
}

impl stdin::Host for State {
    fn get_stdin(&mut self) -> Result<Resource<InputStream>> {
        Ok(Resource::new_own(0))
    }
}
impl stdout::Host for State {
    fn get_stdout(&mut self) -> Result<Resource<OutputStream>> {
        Ok(Resource::new_own(1))
    }
}
impl stderr::Host for State {
    fn get_stderr(&mut self) -> Result<Resource<OutputStream>> {
        Ok(Resource::new_own(2))
    }
}

impl terminal_input::Host for State {}
impl terminal_input::HostTerminalInput for State {
    fn drop(&mut self, _: Resource<terminal_input::TerminalInput>) -> Result<()> {
        Ok(())
    }
}
impl terminal_output::Host for State {}
impl terminal_output::HostTerminalOutput for State {
    fn drop(&mut self, _: Resource<terminal_output::TerminalOutput>) -> Result<()> {
        Ok(())
    }
}
impl terminal_stdin::Host for State {
    fn get_terminal_stdin(&mut self) -> Result<Option<Resource<terminal_input::TerminalInput>>> {
        Ok(None)
    }
}
impl terminal_stdout::Host for State {
    fn get_terminal_stdout(&mut self) -> Result<Option<Resource<terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}
impl terminal_stderr::Host for State {
    fn get_terminal_stderr(&mut self) -> Result<Option<Resource<terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}

impl monotonic_clock::Host for State {
    fn now(&mut self) -> Result<u64> {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Ok(u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0))
    }
    fn resolution(&mut self) -> Result<u64> {
        Ok(1)
    }
    fn subscribe_instant(&mut self, _: u64) -> Result<Resource<poll::Pollable>> {
        Ok(Resource::new_own(0))
    }
    fn subscribe_duration(&mut self, _: u64) -> Result<Resource<poll::Pollable>> {
        Ok(Resource::new_own(0))
    }
}

impl wall_clock::Host for State {
    fn now(&mut self) -> Result<wall_clock::Datetime> {
        let now = match self.fixed.services.still {
            Some(still) => Duration::from_millis(still.now_ms),
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        };
        Ok(wall_clock::Datetime { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() })
    }
    fn resolution(&mut self) -> Result<wall_clock::Datetime> {
        Ok(wall_clock::Datetime { seconds: 0, nanoseconds: 1 })
    }
}

impl State {
    fn draw_bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        if len > MAX_RANDOM {
            return Err(Error::msg("more random bytes at once than allowed"));
        }
        let mut bytes = vec![0; len as usize];
        if self.fixed.services.still.is_some() {
            for chunk in bytes.chunks_mut(8) {
                chunk.copy_from_slice(&self.draw()?.to_le_bytes()[..chunk.len()]);
            }
            return Ok(bytes);
        }
        getrandom::fill(&mut bytes).map_err(|e| Error::msg(e.to_string()))?;
        Ok(bytes)
    }

    fn draw(&mut self) -> Result<u64> {
        let Some(still) = self.fixed.services.still else {
            return getrandom::u64().map_err(|e| Error::msg(e.to_string()));
        };
        // SplitMix64 (Steele, Lea and Flood, 2014): repeatable, for plugins that are tried out.
        self.drawn += 1;
        let mut z = still.seed.wrapping_add(self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(z ^ (z >> 31))
    }
}

impl random::Host for State {
    fn get_random_bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        self.draw_bytes(len)
    }
    fn get_random_u64(&mut self) -> Result<u64> {
        self.draw()
    }
}
impl insecure::Host for State {
    fn get_insecure_random_bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        self.draw_bytes(len)
    }
    fn get_insecure_random_u64(&mut self) -> Result<u64> {
        self.draw()
    }
}
impl insecure_seed::Host for State {
    fn insecure_seed(&mut self) -> Result<(u64, u64)> {
        Ok((self.draw()?, self.draw()?))
    }
}

impl error::Host for State {}
impl error::HostError for State {
    fn to_debug_string(&mut self, _: Resource<error::Error>) -> Result<String> {
        Ok(String::new())
    }
    fn drop(&mut self, _: Resource<error::Error>) -> Result<()> {
        Ok(())
    }
}

impl poll::Host for State {
    fn poll(&mut self, _: Vec<Resource<poll::Pollable>>) -> Result<Vec<u32>> {
        self.forbid("waiting")
    }
}
impl poll::HostPollable for State {
    fn ready(&mut self, _: Resource<poll::Pollable>) -> Result<bool> {
        Ok(true)
    }
    fn block(&mut self, _: Resource<poll::Pollable>) -> Result<()> {
        self.forbid("waiting")
    }
    fn drop(&mut self, _: Resource<poll::Pollable>) -> Result<()> {
        Ok(())
    }
}

type Streamed<T> = Result<std::result::Result<T, StreamError>>;

impl streams::Host for State {}

impl streams::HostInputStream for State {
    fn read(&mut self, _: Resource<InputStream>, _: u64) -> Streamed<Vec<u8>> {
        Ok(Err(StreamError::Closed))
    }
    fn blocking_read(&mut self, _: Resource<InputStream>, _: u64) -> Streamed<Vec<u8>> {
        Ok(Err(StreamError::Closed))
    }
    fn skip(&mut self, _: Resource<InputStream>, _: u64) -> Streamed<u64> {
        Ok(Err(StreamError::Closed))
    }
    fn blocking_skip(&mut self, _: Resource<InputStream>, _: u64) -> Streamed<u64> {
        Ok(Err(StreamError::Closed))
    }
    fn subscribe(&mut self, _: Resource<InputStream>) -> Result<Resource<poll::Pollable>> {
        Ok(Resource::new_own(0))
    }
    fn drop(&mut self, _: Resource<InputStream>) -> Result<()> {
        Ok(())
    }
}

impl streams::HostOutputStream for State {
    fn check_write(&mut self, _: Resource<OutputStream>) -> Streamed<u64> {
        Ok(Ok(MAX_WRITE))
    }
    fn write(&mut self, _: Resource<OutputStream>, contents: Vec<u8>) -> Streamed<()> {
        self.print(&contents);
        Ok(Ok(()))
    }
    fn blocking_write_and_flush(&mut self, _: Resource<OutputStream>, contents: Vec<u8>) -> Streamed<()> {
        self.print(&contents);
        Ok(Ok(()))
    }
    fn flush(&mut self, _: Resource<OutputStream>) -> Streamed<()> {
        Ok(Ok(()))
    }
    fn blocking_flush(&mut self, _: Resource<OutputStream>) -> Streamed<()> {
        Ok(Ok(()))
    }
    fn subscribe(&mut self, _: Resource<OutputStream>) -> Result<Resource<poll::Pollable>> {
        Ok(Resource::new_own(0))
    }
    fn write_zeroes(&mut self, _: Resource<OutputStream>, _: u64) -> Streamed<()> {
        Ok(Ok(()))
    }
    fn blocking_write_zeroes_and_flush(&mut self, _: Resource<OutputStream>, _: u64) -> Streamed<()> {
        Ok(Ok(()))
    }
    fn splice(&mut self, _: Resource<OutputStream>, _: Resource<InputStream>, _: u64) -> Streamed<u64> {
        Ok(Err(StreamError::Closed))
    }
    fn blocking_splice(&mut self, _: Resource<OutputStream>, _: Resource<InputStream>, _: u64) -> Streamed<u64> {
        Ok(Err(StreamError::Closed))
    }
    fn drop(&mut self, _: Resource<OutputStream>) -> Result<()> {
        Ok(())
    }
}
