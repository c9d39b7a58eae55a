//! What both daemons share below the protocols: clock, state files, secrets, logs, command-line habits.
