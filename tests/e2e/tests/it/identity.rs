//! Who is calling, and whose credential: signing in, OAuth, connections.

mod sign_in;
