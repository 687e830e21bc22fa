//! Operations a guest may submit. `docs/abi.md` gives the JSON of each head.

/// Ask for the next event. With [`NEXT_RESULT`] or [`NEXT_ERROR`] the body is the outcome of the event
/// before. Completes when there is an event: the head describes the invocation, the body is the event.
pub const NEXT: u16 = 1;
/// The function could not be initialised; the body is the error (JSON). The guest then ends.
pub const INIT_ERROR: u16 = 2;
/// A part of a request's body: `stream` is the id of a submission made with [`STREAM_BODY`]. Completes
/// once the part has been used, so that its place may be reused; the last part lacks [`MORE_BODY`].
pub const BODY: u16 = 3;
/// Read on in a reply's body: `stream` is from its completion.
pub const READ: u16 = 4;
/// Give up a stream, read or not.
pub const CLOSE: u16 = 5;
/// An S3 operation with a fast path. The host builds, signs, sends and retries the request.
pub const S3: u16 = 16;
/// An HTTP request made by a real SDK, unsigned. The host signs it where it asks for that, and sends it.
pub const HTTP: u16 = 17;
/// A signature to take away: a presigned URL, the fields of a form for S3's POST, a database's connection token.
pub const PRESIGN: u16 = 18;
/// Open a conversation with a web server: a socket whose connection the host has. What the guest sends follows in
/// [`BODY`] parts to this submission's id, what comes is read with [`READ`].
pub const WEB_CONNECT: u16 = 19;
/// Secure the conversation `stream` with TLS; the body may be the authorities to trust.
pub const WEB_TLS: u16 = 20;
/// A gRPC call. Its events and its answer's bytes are read with [`READ`], or come at once where it is wanted whole;
/// CLOSE of its id with [`STREAM_BODY`] cancels it.
pub const RPC: u16 = 21;
/// Other options (setsockopt) for the connections of the conversation `stream`.
pub const WEB_TUNE: u16 = 22;

/// Flag of [`NEXT`]: the body is what the handler returned (JSON).
pub const NEXT_RESULT: u16 = 1;
/// Flag of [`NEXT`]: the body is the error the handler raised (JSON).
pub const NEXT_ERROR: u16 = 2;
/// Flag of any request: its body follows in [`BODY`] parts; `body_length` is then 0.
pub const STREAM_BODY: u16 = 4;
/// Flag of [`BODY`]: another part follows.
pub const MORE_BODY: u16 = 8;

/// Flag of a completion: the body goes on; READ `stream` for the rest, or CLOSE it.
pub const MORE: u32 = 1;
/// Flag of a completion of READ: the conversation has its connection for itself, so whether that has ended only a READ
/// tells.
pub const OWN: u32 = 2;

/// Environment variable of the guest: the URL that S3 calls without one go to; empty: AWS's.
pub const S3_ENDPOINT_ENV: &str = "NEXUS_S3_ENDPOINT";
/// Key id of the credentials every guest is given. The host signs only what bears it.
pub const PLACEHOLDER_KEY_ID: &str = "NEXUSPLACEHOLDERKEY0";
/// The secret that goes with it, and opens nothing.
pub const PLACEHOLDER_SECRET: &str = "placeholder-the-real-secret-stays-on-the-host";

/// `errorType` of an INIT_ERROR by which a runtime asks to be initialised without a base.
pub const UNSUITABLE_BASE: &str = "Nexus.UnsuitableBase";

/// Statuses of a completion other than 0. With each comes a head
/// `{"error": NAME, "message": TEXT, ...}`, as far as the room allows.
pub mod status {
    /// The submission breaks this contract.
    pub const INVALID: i32 = -1;
    /// The other side could not be reached, or the connection broke: `error` is botocore's class name.
    pub const TRANSPORT: i32 = -2;
    /// The function's policy forbids it.
    pub const DENIED: i32 = -3;
    /// It took longer than its time-out.
    pub const TIMEOUT: i32 = -4;
    /// No such stream, or it ended.
    pub const NO_STREAM: i32 = -5;
    /// The room is too small for the reply's head.
    pub const NO_ROOM: i32 = -6;
    /// A limit of the instance was met: try again when something in flight has ended.
    pub const BUSY: i32 = -7;
}
