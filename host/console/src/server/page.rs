//! Pages of lists: so many at once, and where the next one begins.

use crate::api::MAX_PAGE;

/// One page of a sorted list: the items for which `follows` holds (those behind the page before), as many as are asked for
/// and may be. `cursor` tells where the next page begins; none where this is the last.
pub(super) fn page<T>(
    mut items: Vec<T>,
    limit: Option<usize>,
    follows: impl Fn(&T) -> bool,
    cursor: impl Fn(&T) -> String,
) -> (Vec<T>, Option<String>) {
    let limit = limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
    items.retain(follows);
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(cursor);
    (items, next)
}
