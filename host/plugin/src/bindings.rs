//! What `wit/` says, as Rust: host traits for the imports, types for the exports. Generated, nothing else.
#![allow(missing_docs, clippy::all)]

wasmtime::component::bindgen!({
    path: [
        "wit/io.wit",
        "wit/clocks.wit",
        "wit/random.wit",
        "wit/cli.wit",
        "../../wit/types",
        "../../wit/host",
        "../../wit/auth",
        "../../wit/credential",
        "../../wit/policy",
    ],
    inline: "
        package portcullis:internal;
        world everything {
            import wasi:io/error@0.2.12;
            import wasi:io/poll@0.2.12;
            import wasi:io/streams@0.2.12;
            import wasi:clocks/monotonic-clock@0.2.12;
            import wasi:clocks/wall-clock@0.2.12;
            import wasi:random/random@0.2.12;
            import wasi:random/insecure@0.2.12;
            import wasi:random/insecure-seed@0.2.12;
            import wasi:cli/environment@0.2.12;
            import wasi:cli/exit@0.2.12;
            import wasi:cli/stdin@0.2.12;
            import wasi:cli/stdout@0.2.12;
            import wasi:cli/stderr@0.2.12;
            import wasi:cli/terminal-input@0.2.12;
            import wasi:cli/terminal-output@0.2.12;
            import wasi:cli/terminal-stdin@0.2.12;
            import wasi:cli/terminal-stdout@0.2.12;
            import wasi:cli/terminal-stderr@0.2.12;
            import portcullis:types/context@0.1.0;
            import portcullis:types/error@0.1.0;
            import portcullis:host/config@0.1.0;
            import portcullis:host/log@0.1.0;
            import portcullis:host/secrets@0.1.0;
            import portcullis:host/reveal@0.1.0;
            import portcullis:host/http@0.1.0;
            import portcullis:host/token-request@0.1.0;
            import portcullis:host/state@0.1.0;
            import portcullis:host/signing@0.1.0;
            import portcullis:host/metrics@0.1.0;
            import portcullis:auth/request@0.1.0;
            import portcullis:auth/tokens@0.1.0;
            import portcullis:auth/jwt@0.1.0;
            import portcullis:auth/identity@0.1.0;
            import portcullis:auth/resource-metadata@0.1.0;
            import portcullis:credential/target@0.1.0;
            import portcullis:credential/connections@0.1.0;
            import portcullis:credential/resolution@0.1.0;
            import portcullis:credential/caller-token@0.1.0;
            import portcullis:credential/earlier@0.1.0;
            import portcullis:policy/decision@0.1.0;
            import portcullis:policy/results@0.1.0;
            import portcullis:policy/requests@0.1.0;
            import portcullis:policy/lists@0.1.0;
            import portcullis:policy/sessions@0.1.0;
            export portcullis:policy/tool-call@0.1.0;
            export portcullis:policy/tool-result@0.1.0;
            export portcullis:policy/resource-read@0.1.0;
            export portcullis:policy/prompt-get@0.1.0;
            export portcullis:policy/server-request@0.1.0;
            export portcullis:policy/list-filter@0.1.0;
            export portcullis:policy/session@0.1.0;
            export portcullis:types/setup@0.1.0;
            export portcullis:credential/resolver@0.1.0;
            export portcullis:credential/refresher@0.1.0;
            export portcullis:credential/on-rejected@0.1.0;
            export portcullis:auth/provider@0.1.0;
            export portcullis:auth/described@0.1.0;
        }
    ",
    world: "portcullis:internal/everything",
    imports: {
        "portcullis:host/http.send": async | trappable,
        "portcullis:host/token-request.send": async | trappable,
        "portcullis:auth/jwt.verify": async | trappable,
        "portcullis:host/signing.[method]token.sign": async | trappable,
        default: trappable,
    },
});
