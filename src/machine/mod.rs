//! Limits of the machine, and control of this process.
//!
//! - `limits.rs`: the memory and threads that the machine leaves to this process.
//! - `process.rs`: priority, limits and end of this process, and commands that start the program again.

mod limits;
mod process;

pub use self::limits::{
    MemoryBefore, available_memory, free_disk, limit_data, memory_left_in_group, memory_limit, processor,
    reset_peak_memory, threads_left,
};
pub use self::process::{
    confine_this_process, describe_end, end_this_process, forbid_core_dumps, give_way, lower_priority_of_this_thread,
    may_be_written, open_files_limit, part_of_this_program, prefer_to_end_this_process, raise_open_files_limit,
    turn_telemetry_off, user_id, user_name,
};
