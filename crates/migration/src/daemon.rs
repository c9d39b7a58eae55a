//! Whose configuration a file is.

use std::path::Path;

use hardroot_config::Document;

/// A daemon with a configuration of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// `hardroot-server`.
    Server,
    /// `hardroot-agent`.
    Agent,
}

impl Daemon {
    /// The name of the block that only this daemon's configuration has, and of its program.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Server => ("server", "hardroot-server"),
            Self::Agent => ("agent", "hardroot-agent"),
        }
    }

    /// What to say of a file that is the other daemon's configuration: one sentence that names the right command.
    /// `None` when it is not.
    #[must_use]
    pub fn wrong_file(self, document: &Document, file: &Path) -> Option<String> {
        let has =
            |name: &str| document.body().items.iter().any(|item| item.key.text.eq_ignore_ascii_case(name));
        let other = if self == Self::Server { Self::Agent } else { Self::Server };
        let ((own, _), (block, program)) = (self.names(), other.names());
        let file = file.display();
        (has(block) && !has(own)).then(|| {
            format!(
                "{file} is the configuration of SPIRE's {block}: give it to `{program} migrate-from-spire -config {file}`"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_other_daemon_is_told_with_its_command() {
        let told = |daemon: Daemon, text: &str| {
            daemon.wrong_file(&Document::parse(text).unwrap(), Path::new("conf/a.conf"))
        };
        assert_eq!(
            told(Daemon::Server, "agent { data_dir = \"/a\" }").unwrap(),
            "conf/a.conf is the configuration of SPIRE's agent: give it to `hardroot-agent migrate-from-spire \
             -config conf/a.conf`"
        );
        assert!(told(Daemon::Agent, "server {\n}\nplugins {\n}").unwrap().contains("`hardroot-server "));
        assert_eq!(told(Daemon::Server, "server {\n}"), None);
        assert_eq!(told(Daemon::Agent, "agent {\n}"), None);
        assert_eq!(told(Daemon::Agent, "plugins {\n}"), None, "what it lacks is told elsewhere");
    }
}
