//! An identity provider on loopback that can be told to misbehave. It signs by itself, not with the library that verifies.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_model::Secret;
use portcullis_plugin::JwtRules;
use serde_json::{Value, json};

/// The usual options.
pub(crate) fn options() -> portcullis_identity::JwtOptions {
    portcullis_identity::JwtOptions::new(portcullis_outbound::Client::new().unwrap())
}

/// How the issuer answers requests for its keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mood {
    Good,
    Down,
    Slow,
    Huge,
    Redirect,
    WrongIssuer,
    Garbage,
    KeysElsewhere,
}

pub(crate) enum Key {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
}

pub(crate) struct Issuer {
    pub(crate) url: String,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

struct Shared {
    url: Mutex<String>,
    keys: Mutex<Value>,
    mood: Mutex<Mood>,
    asked: AtomicUsize,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Key {
    pub(crate) fn ec() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    pub(crate) fn rsa() -> Self {
        Self::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    pub(crate) fn algorithm(&self) -> &'static str {
        match self {
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
            Self::Rsa(_) => "RS256",
        }
    }

    pub(crate) fn jwk(&self, kid: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ec(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty":"EC","crv":"P-256","kid":kid,"use":"sig","x":text(&point[1..33]),"y":text(&point[33..])})
            }
            Self::Ed(pair) => json!({"kty":"OKP","crv":"Ed25519","kid":kid,"x":text(pair.public_key().as_ref())}),
            Self::Rsa(pair) => {
                let public = pair.public_key();
                let n = text(public.modulus().big_endian_without_leading_zero());
                let e = text(public.exponent().big_endian_without_leading_zero());
                json!({"kty":"RSA","kid":kid,"n":n,"e":e})
            }
        }
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> Secret {
        let message = format!("{}.{}", encode(header), encode(claims));
        let bytes = message.as_bytes();
        let signature = match self {
            Self::Ec(pair) => pair.sign(&SystemRandom::new(), bytes).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(bytes).as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), bytes, &mut signature).unwrap();
                signature
            }
        };
        Secret::new(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// A token with the usual header.
    pub(crate) fn token(&self, kid: &str, claims: &Value) -> Secret {
        self.sign(&json!({"alg":self.algorithm(),"kid":kid,"typ":"at+jwt"}), claims)
    }
}

pub(crate) fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Issuer {
    pub(crate) async fn new() -> Self {
        let shared = Arc::new(Shared {
            url: Mutex::default(),
            keys: Mutex::new(json!({"keys":[]})),
            mood: Mutex::new(Mood::Good),
            asked: AtomicUsize::new(0),
        });
        let app = Router::new()
            .route("/.well-known/openid-configuration", get(metadata))
            .route("/keys", get(keys))
            .with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        shared.url.lock().unwrap().clone_from(&url);
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, shared, server }
    }

    pub(crate) fn publish(&self, keys: &[Value]) {
        *self.shared.keys.lock().unwrap() = json!({ "keys": keys });
    }

    pub(crate) fn be(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    /// How often its keys were asked for.
    pub(crate) fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn claims(&self) -> Value {
        json!({"iss":self.url,"sub":"1","aud":"us","exp":now() + 600,"groups":["blues"]})
    }

    pub(crate) fn rules(&self) -> JwtRules {
        JwtRules {
            issuer: self.url.clone(),
            jwks_url: None,
            audiences: vec!["us".to_owned(), "them".to_owned()],
            algorithms: Vec::new(),
            leeway_seconds: 0,
            token_type: None,
        }
    }
}

async fn metadata(State(shared): State<Arc<Shared>>) -> Response {
    let mood = *shared.mood.lock().unwrap();
    let url = shared.url.lock().unwrap().clone();
    let issuer = if mood == Mood::WrongIssuer { format!("{url}/") } else { url.clone() };
    let keys =
        if mood == Mood::KeysElsewhere { "http://169.254.169.254/keys".to_owned() } else { format!("{url}/keys") };
    axum::Json(json!({"issuer":issuer,"jwks_uri":keys})).into_response()
}

async fn keys(State(shared): State<Arc<Shared>>) -> Response {
    shared.asked.fetch_add(1, Ordering::SeqCst);
    let mood = *shared.mood.lock().unwrap();
    let keys = shared.keys.lock().unwrap().clone();
    match mood {
        Mood::Down => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Mood::Slow => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            axum::Json(keys).into_response()
        }
        Mood::Huge => vec![b' '; 1 << 20].into_response(),
        Mood::Redirect => {
            (StatusCode::FOUND, [(header::LOCATION, "/.well-known/openid-configuration")]).into_response()
        }
        Mood::Garbage => "<html>".into_response(),
        Mood::Good | Mood::WrongIssuer | Mood::KeysElsewhere => axum::Json(keys).into_response(),
    }
}
