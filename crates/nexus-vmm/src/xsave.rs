//! Checks on an XSAVE area that a guest or a file may have made up.

use std::io;

const HEADER: usize = 512;
const MXCSR: usize = 24;
/// Every MXCSR bit that processors with AVX have.
const MXCSR_MASK: u32 = 0xffff;
pub const MAXIMUM: usize = 4096;

/// Leave only components of `xcr0` in an area that KVM wrote. Under PVM it may name others too, which the host has and the
/// guest is not given (protection keys).
pub fn keep(area: &mut [u8], xcr0: u64) {
    if let Some(present) = area.get_mut(HEADER..HEADER + 8) {
        for (byte, allowed) in present.iter_mut().zip(xcr0.to_le_bytes()) {
            *byte &= allowed;
        }
    }
}

/// A full-size area with reserved bits cleared. Empty input gives the initial state.
///
/// # Errors
/// `InvalidInput` for a compacted or impossible area.
pub fn checked(area: &[u8], xcr0: u64) -> io::Result<[u8; MAXIMUM]> {
    let mut out = [0_u8; MAXIMUM];
    if area.is_empty() {
        out[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        out[MXCSR..MXCSR + 4].copy_from_slice(&0x1f80_u32.to_le_bytes());
        return Ok(out);
    }
    if area.len() < HEADER + 64 || area.len() > MAXIMUM {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    out[..area.len()].copy_from_slice(area);
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&out[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let (present, compact) = (word(HEADER), word(HEADER + 8));
    if compact != 0 || present & !xcr0 != 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    out[HEADER + 16..HEADER + 64].fill(0);
    let mut mxcsr = [0; 4];
    mxcsr.copy_from_slice(&out[MXCSR..MXCSR + 4]);
    let mxcsr = u32::from_le_bytes(mxcsr) & MXCSR_MASK;
    out[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn empty_is_the_initial_state() {
        let area = checked(&[], 7).unwrap();
        assert_eq!(area[0..2], [0x7f, 3]);
        assert_eq!(area[24..28], 0x1f80_u32.to_le_bytes());
    }

    #[test]
    fn refuses_components_and_formats_that_cannot_be() {
        let mut area = vec![0; 576];
        assert!(checked(&area, 7).is_ok());
        area[513] = 2; // bit 9: PKU
        assert!(checked(&area, 7).is_err());
        area[513] = 0;
        area[527] = 0x80; // compacted
        assert!(checked(&area, 7).is_err());
        assert!(checked(&[0; 575], 7).is_err());
        assert!(checked(&[0; 4097], 7).is_err());
    }

    #[test]
    fn components_of_the_host_alone_are_left_out() {
        let mut area = vec![0; 576];
        area[512..514].copy_from_slice(&[0xff, 2]);
        keep(&mut area, 0xe7);
        assert_eq!(area[512..514], [0xe7, 0]);
        assert!(checked(&area, 0xe7).is_ok());
        keep(&mut area[..100], 7);
    }

    #[test]
    fn clears_reserved_bits() {
        let mut area = vec![0; 576];
        area[24..28].fill(0xff);
        area[540] = 1;
        let out = checked(&area, 7).unwrap();
        assert_eq!(out[24..28], 0xffff_u32.to_le_bytes());
        assert_eq!(out[540], 0);
    }
}
