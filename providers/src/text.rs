//! Foreign texts, made fit to be a part of a message.

use std::error::Error;

/// The longest part of a foreign text in a message, in characters.
const MAX: usize = 300;

/// An error and its causes.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    let causes: Vec<String> = causes.map(ToString::to_string).collect();
    brief(&causes.join(": "))
}

/// A foreign text on one line, cut so that it fits into a message.
pub(crate) fn brief(text: &str) -> String {
    text.chars().take(MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
