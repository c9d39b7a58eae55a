//! A PKCS#11 module that passes every call on to SoftHSM and puts faults in between, as a file says.
//!
//! The file is `shim-control` beside the one that `SOFTHSM2_CONF` names, with one word per line:
//!
//! - `wipe`: the next C_SignInit closes all sessions first, once, as an HSM does that lost its connection;
//! - `error=<number>`: C_SignInit fails with this code;
//! - `hang=<ms>`: C_Sign takes this much longer, also when it is only asked for a length;
//! - `delay=<ms>`: each signature takes this much longer, as on a slow token;
//! - `corrupt`: C_Sign gives a signature with one bit flipped;
//! - `flags=<number>`: C_GetTokenInfo reports these flags, too.
//!
//! `shim-log`, beside it, gets a line for each C_Login, C_Initialize, C_Finalize and C_Sign.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use cryptoki_sys::{
    CK_ATTRIBUTE_PTR, CK_BYTE_PTR, CK_FLAGS, CK_FUNCTION_LIST, CK_FUNCTION_LIST_PTR_PTR, CK_MECHANISM_PTR,
    CK_NOTIFY, CK_OBJECT_HANDLE, CK_OBJECT_HANDLE_PTR, CK_RV, CK_SESSION_HANDLE, CK_SESSION_HANDLE_PTR,
    CK_SESSION_INFO, CK_SESSION_INFO_PTR, CK_SLOT_ID, CK_TOKEN_INFO_PTR, CK_ULONG, CK_ULONG_PTR,
    CK_USER_TYPE, CK_UTF8CHAR_PTR, CK_VOID_PTR, CKR_FUNCTION_NOT_SUPPORTED, CKR_GENERAL_ERROR, CKR_OK,
    Pkcs11,
};

/// Where distributions put SoftHSM.
const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];

struct Lists {
    real: CK_FUNCTION_LIST,
    /// The list that is given out: made once, and from then on only read.
    shim: CK_FUNCTION_LIST,
}

/// Held for reading by every call that uses a session, and for writing while sessions are wiped: SoftHSM crashes
/// when a session is closed under a call that uses it.
static INSIDE: RwLock<()> = RwLock::new(());

fn inside() -> RwLockReadGuard<'static, ()> {
    INSIDE.read().unwrap_or_else(PoisonError::into_inner)
}

/// A function that only passes its call on.
macro_rules! pass_on {
    ($name:ident, $field:ident, $($argument:ident: $type:ty),*) => {
        unsafe extern "C" fn $name($($argument: $type),*) -> CK_RV {
            let _inside = inside();
            match real().and_then(|real| real.$field) {
                // SAFETY: the arguments are the caller's, passed on as they are.
                Some(call) => unsafe { call($($argument),*) },
                None => CKR_FUNCTION_NOT_SUPPORTED,
            }
        }
    };
}

pass_on!(open_session, C_OpenSession, slot: CK_SLOT_ID, flags: CK_FLAGS, application: CK_VOID_PTR, notify: CK_NOTIFY, session: CK_SESSION_HANDLE_PTR);
pass_on!(close_session, C_CloseSession, session: CK_SESSION_HANDLE);
pass_on!(get_session_info, C_GetSessionInfo, session: CK_SESSION_HANDLE, info: CK_SESSION_INFO_PTR);
pass_on!(find_init, C_FindObjectsInit, session: CK_SESSION_HANDLE, template: CK_ATTRIBUTE_PTR, count: CK_ULONG);
pass_on!(find, C_FindObjects, session: CK_SESSION_HANDLE, objects: CK_OBJECT_HANDLE_PTR, most: CK_ULONG, count: CK_ULONG_PTR);
pass_on!(find_final, C_FindObjectsFinal, session: CK_SESSION_HANDLE);
pass_on!(get_attributes, C_GetAttributeValue, session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, template: CK_ATTRIBUTE_PTR, count: CK_ULONG);

static LISTS: OnceLock<Option<Lists>> = OnceLock::new();

fn lists() -> Option<&'static Lists> {
    LISTS.get_or_init(load).as_ref()
}

fn real() -> Option<&'static CK_FUNCTION_LIST> {
    lists().map(|lists| &lists.real)
}

fn load() -> Option<Lists> {
    let path = MODULES.iter().find(|path| Path::new(path).is_file())?;
    // SAFETY: this is SoftHSM as the distribution built it; loading it runs its initialisers and no more.
    let module = unsafe { Pkcs11::new(path) }.ok()?;
    let mut list = ptr::null_mut();
    // SAFETY: `list` is a valid place for a pointer, which is all that C_GetFunctionList writes to.
    if unsafe { module.C_GetFunctionList(&mut list) } != CKR_OK || list.is_null() {
        return None;
    }
    // SAFETY: the module gave this pointer for a list that it keeps as long as it is loaded; it is copied here.
    let real = unsafe { *list };
    // The pointers in the list are good as long as the module stays loaded: for ever.
    std::mem::forget(module);
    let mut shim = real;
    shim.C_OpenSession = Some(open_session);
    shim.C_CloseSession = Some(close_session);
    shim.C_GetSessionInfo = Some(get_session_info);
    shim.C_FindObjectsInit = Some(find_init);
    shim.C_FindObjects = Some(find);
    shim.C_FindObjectsFinal = Some(find_final);
    shim.C_GetAttributeValue = Some(get_attributes);
    shim.C_SignInit = Some(sign_init);
    shim.C_Sign = Some(sign);
    shim.C_Login = Some(login);
    shim.C_GetTokenInfo = Some(get_token_info);
    shim.C_Initialize = Some(initialize);
    shim.C_Finalize = Some(finalize);
    Some(Lists { real, shim })
}

fn beside_conf(name: &str) -> Option<PathBuf> {
    Some(Path::new(&std::env::var_os("SOFTHSM2_CONF")?).with_file_name(name))
}

/// The value of a word in the control file; an empty one for a word without value.
fn control(word: &str) -> Option<String> {
    let text = fs::read_to_string(beside_conf("shim-control")?).ok()?;
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        (name == word).then(|| value.to_owned())
    })
}

fn number(word: &str) -> Option<CK_ULONG> {
    control(word)?.parse().ok()
}

fn log(call: &str) {
    let file =
        beside_conf("shim-log").and_then(|path| OpenOptions::new().append(true).create(true).open(path).ok());
    if let Some(mut file) = file {
        // A test that misses the line fails by itself.
        // In one piece: lines of several threads must not run into each other.
        drop(file.write_all(format!("{call}\n").as_bytes()));
    }
}

/// PKCS#11's way in.
///
/// # Safety
/// `list` is null or a valid place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    let Some(lists) = lists().filter(|_| !list.is_null()) else { return CKR_GENERAL_ERROR };
    // SAFETY: `list` is valid by this function's contract; what it points to is only read by PKCS#11's callers.
    unsafe { *list = ptr::from_ref(&lists.shim).cast_mut() };
    CKR_OK
}

unsafe extern "C" fn sign_init(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    let Some(real) = real() else { return CKR_GENERAL_ERROR };
    if let Some(code) = number("error") {
        return code;
    }
    if control("wipe").is_some() {
        // Whoever removes the file is the one that wipes.
        let first = beside_conf("shim-control").is_some_and(|path| fs::remove_file(path).is_ok());
        if let (true, Some(info), Some(close)) = (first, real.C_GetSessionInfo, real.C_CloseAllSessions) {
            let _nobody_inside = INSIDE.write().unwrap_or_else(PoisonError::into_inner);
            let mut found = CK_SESSION_INFO::default();
            // SAFETY: `found` is a valid place for the answer; the session number is the caller's.
            if unsafe { info(session, &mut found) } == CKR_OK {
                // SAFETY: closing sessions takes a slot number alone.
                unsafe { close(found.slotID) };
            }
        }
    }
    let _inside = inside();
    match real.C_SignInit {
        // SAFETY: the arguments are the caller's, passed on as they are.
        Some(call) => unsafe { call(session, mechanism, key) },
        None => CKR_FUNCTION_NOT_SUPPORTED,
    }
}

unsafe extern "C" fn sign(
    session: CK_SESSION_HANDLE,
    data: CK_BYTE_PTR,
    data_length: CK_ULONG,
    signature: CK_BYTE_PTR,
    signature_length: CK_ULONG_PTR,
) -> CK_RV {
    let Some(call) = real().and_then(|real| real.C_Sign) else { return CKR_FUNCTION_NOT_SUPPORTED };
    // Without a place for the signature it is only asked for its length.
    if !signature.is_null() {
        match control("delay").and_then(|text| text.parse().ok()) {
            // A slow token is measured: the log would cost as much as what is measured.
            Some(ms) => std::thread::sleep(Duration::from_millis(ms)),
            None => log("C_Sign"),
        }
    }
    if let Some(ms) = control("hang").and_then(|text| text.parse().ok()) {
        std::thread::sleep(Duration::from_millis(ms));
    }
    let _inside = inside();
    // SAFETY: the arguments are the caller's, passed on as they are.
    let result = unsafe { call(session, data, data_length, signature, signature_length) };
    if result == CKR_OK && !signature.is_null() && control("corrupt").is_some() {
        // SAFETY: the module has just written a signature of at least one byte there.
        unsafe { *signature.add(7) ^= 1 };
    }
    result
}

unsafe extern "C" fn login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: CK_UTF8CHAR_PTR,
    pin_length: CK_ULONG,
) -> CK_RV {
    log("C_Login");
    let _inside = inside();
    match real().and_then(|real| real.C_Login) {
        // SAFETY: the arguments are the caller's, passed on as they are.
        Some(call) => unsafe { call(session, user, pin, pin_length) },
        None => CKR_FUNCTION_NOT_SUPPORTED,
    }
}

unsafe extern "C" fn get_token_info(slot: CK_SLOT_ID, info: CK_TOKEN_INFO_PTR) -> CK_RV {
    let Some(call) = real().and_then(|real| real.C_GetTokenInfo) else { return CKR_FUNCTION_NOT_SUPPORTED };
    // SAFETY: the arguments are the caller's, passed on as they are.
    let result = unsafe { call(slot, info) };
    if result == CKR_OK
        && let Some(flags) = number("flags")
    {
        // SAFETY: the module has just filled the structure, so the pointer is valid.
        unsafe { (*info).flags |= flags };
    }
    result
}

unsafe extern "C" fn initialize(arguments: CK_VOID_PTR) -> CK_RV {
    log("C_Initialize");
    match real().and_then(|real| real.C_Initialize) {
        // SAFETY: the argument is the caller's, passed on as it is.
        Some(call) => unsafe { call(arguments) },
        None => CKR_FUNCTION_NOT_SUPPORTED,
    }
}

unsafe extern "C" fn finalize(reserved: CK_VOID_PTR) -> CK_RV {
    log("C_Finalize");
    match real().and_then(|real| real.C_Finalize) {
        // SAFETY: the argument is the caller's, passed on as it is.
        Some(call) => unsafe { call(reserved) },
        None => CKR_FUNCTION_NOT_SUPPORTED,
    }
}
