//! libtss2 writes to stderr by itself unless an environment variable says otherwise.

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

const VARIABLE: &str = "TSS2_LOG";

/// Makes libtss2 write nothing to stderr: every fault it meets comes back as an error anyway.
///
/// libtss2 reads `TSS2_LOG` on its first fault, and a process cannot change its own environment safely. So, unless
/// the variable is set already, this starts the same program in place of this process, with
/// the variable set. Call it first in `main`, before there are threads; it returns only when nothing had to be done.
///
/// # Errors
/// The program could not be started again. Going on is fine: only the noise stays.
pub fn silence_libtss2() -> io::Result<()> {
    if env::var_os(VARIABLE).is_some() {
        return Ok(());
    }
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_default();
    Err(Command::new(env::current_exe()?).arg0(name).args(arguments).env(VARIABLE, "all+NONE").exec())
}
