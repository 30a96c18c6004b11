//! JSON Patch over plain values: what a fake needs of it. The host's own keeps every byte that no operation touches.

use serde_json::Value;

/// The text after all operations.
pub(super) fn apply(text: &str, operations: &str) -> Result<String, String> {
    let mut document: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let operations: Vec<Value> = serde_json::from_str(operations).map_err(|e| e.to_string())?;
    for operation in &operations {
        take(&mut document, operation)?;
    }
    Ok(document.to_string())
}

fn take(document: &mut Value, operation: &Value) -> Result<(), String> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    let path = text("path").ok_or("`path` is missing")?;
    let value = || operation.get("value").cloned().ok_or("`value` is missing");
    match text("op").unwrap_or_default() {
        "add" => add(document, path, value()?),
        "replace" => {
            *document.pointer_mut(path).ok_or("the path leads nowhere")? = value()?;
            Ok(())
        }
        "remove" => remove(document, path).map(drop),
        "test" if document.pointer(path) == Some(&value()?) => Ok(()),
        "test" => Err("the test fails".into()),
        "move" => {
            let moved = remove(document, text("from").ok_or("`from` is missing")?)?;
            add(document, path, moved)
        }
        "copy" => {
            let from = text("from").ok_or("`from` is missing")?;
            let copied = document.pointer(from).cloned().ok_or("the path leads nowhere")?;
            add(document, path, copied)
        }
        _ => Err("there is no such `op`".into()),
    }
}

fn holder<'d>(document: &'d mut Value, path: &str) -> Result<(&'d mut Value, String), String> {
    let (before, last) = path.rsplit_once('/').ok_or("the path leads nowhere")?;
    let holder = document.pointer_mut(before).ok_or("the path leads nowhere")?;
    Ok((holder, last.replace("~1", "/").replace("~0", "~")))
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        *document = value;
        return Ok(());
    }
    match holder(document, path)? {
        (Value::Object(members), name) => drop(members.insert(name, value)),
        (Value::Array(items), at) => {
            let at = if at == "-" { Some(items.len()) } else { at.parse().ok() };
            let at = at.filter(|at| *at <= items.len()).ok_or("the path leads nowhere")?;
            items.insert(at, value);
        }
        _ => return Err("the path leads nowhere".into()),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str) -> Result<Value, String> {
    let gone = match holder(document, path)? {
        (Value::Object(members), name) => members.remove(&name),
        (Value::Array(items), at) => at.parse().ok().filter(|at| *at < items.len()).map(|at: usize| items.remove(at)),
        _ => None,
    };
    gone.ok_or_else(|| "the path leads nowhere".into())
}
