//! Loading an ELF program and its interpreter, and the first thread's stack (System V ABI for x86-64, 3.4).

use crate::errno::{EACCES, EINVAL, ENOENT, Errno};
use crate::files::resolve::{host_stat, open_host};
use crate::files::tmpfs::Inode;
use crate::files::{HostFile, Identity, Node};
use crate::machine::{ThreadState, UserRegs};
use crate::mm::{Backing, Neighbours, Request};
use crate::process::{Error, Process};
use crate::window::{CHUNK, HEAP, PAGE};
use goblin::elf::header::{EM_X86_64, ET_DYN, ET_EXEC};
use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_INTERP, PT_LOAD, PT_PHDR, ProgramHeader};
use goblin::elf64::header::Header;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// Size of the first thread's stack.
const STACK: u64 = 8 << 20;
/// Most bytes of arguments and environment that a program is executed with, their pointers included: a quarter of its stack, as
/// on Linux.
pub const MOST_ARGUMENTS: u64 = STACK / 4;
/// Bytes of arguments and environment at most, those of a script's interpreter and the path included.
const MAX_STRINGS: usize = MOST_ARGUMENTS as usize + (1 << 20);
/// Program headers at most.
const MAX_HEADERS: u16 = 128;

/// A program in memory.
struct Image {
    /// Added to the addresses in the file.
    bias: u64,
    entry: u64,
    headers: u64,
    header_count: u64,
    end: u64,
    interpreter: Option<Vec<u8>>,
}

fn refuse(what: &str, path: &[u8], why: &str) -> Error {
    Error::Refused(format!("{what} {}: {why}", String::from_utf8_lossy(path)))
}

/// Load the configured program.
///
/// # Errors
/// As [`Process::load`].
pub fn load(process: &Arc<Process>) -> Result<ThreadState, Error> {
    let program = process.config.program.path.clone().into_bytes();
    let image = map_image(process, &program)?;
    // A page above, so that it joins no other memory.
    let heap = image.end.next_multiple_of(CHUNK).max(HEAP) + PAGE;
    process.mm().heap = (heap, heap);
    let (entry, base) = match &image.interpreter {
        Some(path) => {
            let interpreter = map_image(process, path)?;
            (interpreter.entry, interpreter.bias)
        }
        None => (image.entry, 0),
    };
    let rsp = build_stack(process, &image, base).map_err(|errno| Error::Guest {
        doing: "building the stack",
        errno,
    })?;
    Ok(ThreadState {
        tid: process.pid(),
        regs: UserRegs {
            rip: entry,
            rsp,
            rflags: 0x202,
            ..Default::default()
        },
        ..Default::default()
    })
}

fn open(process: &Process, path: &[u8]) -> Result<HostFile, Error> {
    let failed = |errno: Errno| {
        refuse(
            "program",
            path,
            &format!("{}", io::Error::from_raw_os_error(errno.0)),
        )
    };
    let cwd = process.cwd().clone();
    let resolved = process.names.resolve(&cwd, path, true).map_err(failed)?;
    match resolved.node {
        Some(Node::Host {
            directory,
            relative,
        }) => open_host(directory, &relative, &resolved.path)
            .map(|(f, _)| f)
            .map_err(failed),
        Some(Node::Memory(inode)) if !inode.is_directory() => {
            open_memory(&inode, path).map_err(failed)
        }
        Some(_) => Err(failed(EACCES)),
        None => Err(failed(ENOENT)),
    }
}

/// A program that the guest has written itself.
fn open_memory(inode: &Inode, path: &[u8]) -> Result<HostFile, Errno> {
    let fd = inode.host().ok_or(EACCES)?;
    // SAFETY: the inode lives across the call; the duplicate is owned at once.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    crate::errno::check(i64::from(copy))?;
    let identity = Identity::of(&host_stat(copy)?);
    Ok(HostFile {
        // SAFETY: just made, owned by nobody else.
        fd: unsafe { OwnedFd::from_raw_fd(copy) },
        path: path.to_vec(),
        identity,
        writable: false,
    })
}

fn read_at(file: &HostFile, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
    let offset = i64::try_from(offset).map_err(|_| EINVAL)?;
    // SAFETY: a live buffer of the length given.
    let got = unsafe {
        libc::pread(
            file.fd.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            offset,
        )
    };
    if usize::try_from(got).is_ok_and(|n| n == buffer.len()) {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

fn read_headers(file: &HostFile, path: &[u8]) -> Result<(Header, Vec<ProgramHeader>), Error> {
    let bad = |why: &str| refuse("program", path, why);
    let mut bytes = [0u8; 64];
    read_at(file, 0, &mut bytes).map_err(|_| bad("too short for an ELF header"))?;
    let header = Header::from_bytes(&bytes);
    let ident = &header.e_ident;
    if !ident.starts_with(b"\x7fELF") || ident.get(4) != Some(&2) || ident.get(5) != Some(&1) {
        return Err(bad(
            "not a 64-bit ELF file (scripts need their interpreter named)",
        ));
    }
    if header.e_machine != EM_X86_64 || !matches!(header.e_type, ET_EXEC | ET_DYN) {
        return Err(bad("not an executable for x86-64"));
    }
    if header.e_phentsize != 56 || header.e_phnum == 0 || header.e_phnum > MAX_HEADERS {
        return Err(bad("program headers of an unknown form"));
    }
    let mut table = vec![0u8; usize::from(header.e_phnum) * 56];
    read_at(file, header.e_phoff, &mut table).map_err(|_| bad("truncated program headers"))?;
    let field = |entry: &[u8], at: usize| {
        entry
            .get(at..at + 8)
            .and_then(|b| b.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    };
    let headers = table.chunks_exact(56).map(|e| ProgramHeader {
        p_type: field(e, 0) as u32,
        p_flags: (field(e, 0) >> 32) as u32,
        p_offset: field(e, 8),
        p_vaddr: field(e, 16),
        p_paddr: field(e, 24),
        p_filesz: field(e, 32),
        p_memsz: field(e, 40),
        p_align: field(e, 48),
    });
    Ok((*header, headers.collect()))
}

fn map_image(process: &Process, path: &[u8]) -> Result<Image, Error> {
    let file = Arc::new(open(process, path)?);
    let (header, headers) = read_headers(&file, path)?;
    let bad = |why: &str| refuse("program", path, why);
    let loads: Vec<&ProgramHeader> = headers
        .iter()
        .filter(|h| h.p_type == PT_LOAD && h.p_memsz > 0)
        .collect();
    let end_of = |h: &ProgramHeader| h.p_vaddr.checked_add(h.p_memsz).filter(|e| *e < 1 << 40);
    let low = loads
        .iter()
        .map(|h| h.p_vaddr & !(PAGE - 1))
        .min()
        .ok_or_else(|| bad("nothing to load"))?;
    let mut high = 0;
    for h in &loads {
        high = high.max(end_of(h).ok_or_else(|| bad("a segment beyond all addresses"))?);
        if h.p_filesz > h.p_memsz || h.p_vaddr % PAGE != h.p_offset % PAGE || h.p_offset > 1 << 40 {
            return Err(bad("a segment of impossible size or alignment"));
        }
    }
    let position_independent = header.e_type == ET_DYN;
    let length = high.next_multiple_of(PAGE) - low;
    let failed = |errno| Error::Guest {
        doing: "mapping the program",
        errno,
    };
    // The whole extent first, so that its segments cannot meet anything else.
    let at = process
        .mm()
        .map(Request {
            neighbours: Neighbours::Files,
            ..request(
                if position_independent { 0 } else { low },
                length,
                0,
                !position_independent,
                None,
            )
        })
        .map_err(failed)?;
    let bias = if position_independent {
        at.wrapping_sub(low)
    } else {
        0
    };
    for h in &loads {
        map_segment(process, &file, h, bias).map_err(failed)?;
    }
    let own = |h: &&ProgramHeader| h.p_type == PT_PHDR;
    let holds = |h: &&&ProgramHeader| {
        header.e_phoff >= h.p_offset && header.e_phoff < h.p_offset.saturating_add(h.p_filesz)
    };
    let headers_at = match (headers.iter().find(own), loads.iter().find(holds)) {
        (Some(h), _) => h.p_vaddr.wrapping_add(bias),
        (None, Some(h)) => (header.e_phoff - h.p_offset)
            .wrapping_add(h.p_vaddr)
            .wrapping_add(bias),
        (None, None) => 0,
    };
    let interpreter = match headers.iter().find(|h| h.p_type == PT_INTERP) {
        Some(h) => {
            let size = usize::try_from(h.p_filesz)
                .ok()
                .filter(|s| *s <= 4096)
                .ok_or_else(|| bad("interpreter path too long"))?;
            let mut name = vec![0u8; size];
            read_at(&file, h.p_offset, &mut name).map_err(|_| bad("truncated interpreter path"))?;
            name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
            Some(name)
        }
        None => None,
    };
    Ok(Image {
        bias,
        entry: header.e_entry.wrapping_add(bias),
        headers: headers_at,
        header_count: header.e_phnum.into(),
        end: high.wrapping_add(bias),
        interpreter,
    })
}

fn request(
    address: u64,
    length: u64,
    prot: i32,
    exclusive: bool,
    source: Option<(Arc<HostFile>, u64)>,
) -> Request {
    Request {
        address,
        length,
        prot,
        shared: false,
        fixed: false,
        exclusive,
        source: source.as_ref().map(|(f, o)| (f.fd.as_raw_fd(), *o)),
        backing: source.map_or(Backing::Anonymous, |(f, o)| Backing::File(f, o)),
        neighbours: Neighbours::Alike,
        used: 0,
    }
}

fn map_segment(
    process: &Process,
    file: &Arc<HostFile>,
    h: &ProgramHeader,
    bias: u64,
) -> Result<(), Errno> {
    let bits = [
        (PF_R, libc::PROT_READ),
        (PF_W, libc::PROT_WRITE),
        (PF_X, libc::PROT_EXEC),
    ];
    let prot = bits
        .iter()
        .filter(|(f, _)| h.p_flags & f != 0)
        .fold(0, |p, (_, b)| p | b);
    let start = h.p_vaddr.wrapping_add(bias);
    let page = start & !(PAGE - 1);
    let file_end = start + h.p_filesz;
    let end = (start + h.p_memsz).next_multiple_of(PAGE);
    let mut mapped = page;
    if h.p_filesz > 0 {
        mapped = file_end.next_multiple_of(PAGE);
        let source = Some((Arc::clone(file), h.p_offset & !(PAGE - 1)));
        process.mm().map(Request {
            fixed: true,
            ..request(page, mapped - page, prot, false, source)
        })?;
        if h.p_memsz > h.p_filesz && prot & libc::PROT_WRITE != 0 && mapped > file_end {
            let zeros = vec![0u8; usize::try_from(mapped - file_end).map_err(|_| EINVAL)?];
            process.memory.write_bytes(file_end, &zeros)?;
        }
    }
    if end > mapped {
        process.mm().map(Request {
            fixed: true,
            ..request(mapped, end - mapped, prot, false, None)
        })?;
    }
    Ok(())
}

/// Strings at the top, then auxiliary vector, environment, arguments, count.
fn build_stack(process: &Process, image: &Image, base: u64) -> Result<u64, Errno> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let bottom = process
        .mm()
        .map_stack(request(0, STACK, prot, false, None))?;
    let top = bottom + STACK;
    let program = &process.config.program;
    let mut strings = Vec::new();
    let mut push = |text: &[u8]| -> Result<u64, Errno> {
        if strings.len() + text.len() > MAX_STRINGS || text.contains(&0) {
            return Err(EINVAL);
        }
        let at = strings.len() as u64;
        strings.extend_from_slice(text);
        strings.push(0);
        Ok(at)
    };
    let argv = program
        .arguments()
        .iter()
        .map(|a| push(a))
        .collect::<Result<Vec<_>, _>>()?;
    let envp = program
        .environment()
        .iter()
        .map(|e| push(e))
        .collect::<Result<Vec<_>, _>>()?;
    let path = push(program.path.as_bytes())?;
    let platform = push(b"x86_64")?;
    let mut random = [0u8; 16];
    // SAFETY: a live buffer of the length given.
    unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), 0) };
    let random_at = top - 16;
    let strings_at = (random_at - strings.len() as u64) & !15;
    process.memory.write_bytes(random_at, &random)?;
    process.memory.write_bytes(strings_at, &strings)?;
    let auxiliary = [
        (libc::AT_PHDR, image.headers),
        (libc::AT_PHENT, 56),
        (libc::AT_PHNUM, image.header_count),
        (libc::AT_PAGESZ, PAGE),
        (libc::AT_BASE, base),
        (libc::AT_FLAGS, 0),
        (libc::AT_ENTRY, image.entry),
        (libc::AT_UID, crate::syscall::info::UID),
        (libc::AT_EUID, crate::syscall::info::UID),
        (libc::AT_GID, crate::syscall::info::UID),
        (libc::AT_EGID, crate::syscall::info::UID),
        (libc::AT_SECURE, 0),
        (libc::AT_CLKTCK, 100),
        (libc::AT_RANDOM, random_at),
        (libc::AT_EXECFN, strings_at + path),
        (libc::AT_PLATFORM, strings_at + platform),
        (
            if process.config.vdso == 0 {
                libc::AT_IGNORE
            } else {
                libc::AT_SYSINFO_EHDR
            },
            process.config.vdso,
        ),
        (libc::AT_NULL, 0),
    ];
    let mut words = vec![argv.len() as u64];
    words.extend(argv.iter().map(|a| strings_at + a));
    words.push(0);
    words.extend(envp.iter().map(|e| strings_at + e));
    words.push(0);
    words.extend(auxiliary.iter().flat_map(|(kind, value)| [*kind, *value]));
    let rsp = (strings_at - 8 * words.len() as u64) & !15;
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    process.memory.write_bytes(rsp, &bytes)?;
    Ok(rsp)
}
