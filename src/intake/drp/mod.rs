//! The Data Rights Protocol 0.9.4, which 1.0 left as it is:
//! <https://github.com/consumer-reports-innovation-lab/data-rights-protocol>. `message.rs` has what
//! agents sign, `status.rs` what they are told.

mod message;
mod status;

pub use message::{Agent, AgentError, Claim, Message, MessageError, Trust, VERSION};
pub use status::{DrpReason, DrpState, DrpStatus, ExerciseStatus};
