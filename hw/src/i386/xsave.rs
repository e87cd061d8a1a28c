//! The state that XSAVE manages, feature component by feature component.
//!
//! A component that is in its initial configuration has no contents: that is `None` here, and a clear bit in XSTATE_BV
//! for the processor. Where a component lies in an XSAVE area depends on the processor's vendor, so areas are made and
//! taken apart by an [`XsaveLayout`], and only contents travel.

use vmstate::state::VmState;

use super::cpuid::{CpuidTable, LEAF_XSAVE};

/// The x87 registers, component 0.
#[derive(VmState, Clone, Debug, PartialEq)]
pub struct X87State {
    /// The control word.
    pub control: u16,
    /// The status word.
    pub status: u16,
    /// The tag word in its abridged form: a bit per register that is in use.
    pub tag: u8,
    /// The opcode of the last instruction.
    pub opcode: u16,
    /// The address of the last instruction.
    pub instruction_pointer: u64,
    /// The address of the last operand.
    pub data_pointer: u64,
    /// ST0 to ST7 (MM0 to MM7), 80 bits each, little endian.
    pub registers: [[u8; 10]; 8],
}

impl Default for X87State {
    fn default() -> Self {
        Self {
            control: 0x37f,
            status: 0,
            tag: 0,
            opcode: 0,
            instruction_pointer: 0,
            data_pointer: 0,
            registers: [[0; 10]; 8],
        }
    }
}

/// The SSE registers, component 1. MXCSR is shared with AVX and stands beside them.
#[derive(VmState, Default, Clone, Debug, PartialEq)]
pub struct SseState {
    /// XMM0 to XMM15, little endian.
    pub xmm: [[u8; 16]; 16],
}

/// The upper halves of the AVX registers, component 2.
#[derive(VmState, Default, Clone, Debug, PartialEq)]
pub struct AvxState {
    /// Bits 128 to 255 of YMM0 to YMM15, little endian.
    pub ymm_high: [[u8; 16]; 16],
}

/// The mask registers of AVX-512, component 5.
#[derive(VmState, Default, Clone, Debug, PartialEq)]
pub struct OpmaskState {
    /// K0 to K7.
    pub k: [u64; 8],
}

/// The upper halves of the first sixteen AVX-512 registers, component 6.
#[derive(VmState, Default, Clone, Debug, PartialEq)]
pub struct ZmmHighState {
    /// Bits 256 to 511 of ZMM0 to ZMM15, little endian.
    pub zmm_high: [[u8; 32]; 16],
}

/// The second sixteen AVX-512 registers, component 7.
#[derive(VmState, Clone, Debug, PartialEq)]
pub struct HighZmmState {
    /// ZMM16 to ZMM31, little endian.
    pub zmm: [[u8; 64]; 16],
}

impl Default for HighZmmState {
    fn default() -> Self {
        Self { zmm: [[0; 64]; 16] }
    }
}

/// The protection keys' rights, component 9.
#[derive(VmState, Default, Clone, Debug, PartialEq)]
pub struct PkruState {
    /// The PKRU register.
    pub pkru: u32,
}

/// How AMX's tiles are cut, component 17.
#[derive(VmState, Clone, Debug, PartialEq)]
pub struct TileConfigState {
    /// TILECFG.
    pub config: [u8; 64],
}

/// AMX's tiles, component 18.
#[derive(VmState, Default, Clone, Debug, PartialEq)]
pub struct TileDataState {
    /// TMM0 to TMM7, rows of 64 bytes, little endian.
    #[vmstate(max = 8)]
    pub tiles: Vec<[u8; 1024]>,
}

/// All components that Tern describes.
#[derive(VmState, Clone, Debug, PartialEq)]
pub struct XsaveState {
    /// Control and status of SSE and AVX. Part of the area's legacy region, valid whatever is in use.
    pub mxcsr: u32,
    /// The x87 registers, unless initial.
    pub x87: Option<X87State>,
    /// The SSE registers, unless initial.
    pub sse: Option<SseState>,
    /// The upper halves of the AVX registers, unless initial.
    pub avx: Option<AvxState>,
    /// The AVX-512 mask registers, unless initial.
    pub opmask: Option<OpmaskState>,
    /// The upper halves of ZMM0 to ZMM15, unless initial.
    pub zmm_high: Option<ZmmHighState>,
    /// ZMM16 to ZMM31, unless initial.
    pub high_zmm: Option<HighZmmState>,
    /// The protection keys' rights, unless initial.
    pub pkru: Option<PkruState>,
    /// How AMX's tiles are cut, unless initial.
    pub tile_config: Option<TileConfigState>,
    /// AMX's tiles, unless initial.
    pub tile_data: Option<TileDataState>,
}

impl Default for XsaveState {
    fn default() -> Self {
        Self {
            mxcsr: 0x1f80,
            x87: None,
            sse: None,
            avx: None,
            opmask: None,
            zmm_high: None,
            high_zmm: None,
            pkru: None,
            tile_config: None,
            tile_data: None,
        }
    }
}

impl XsaveState {
    /// Drops what is at rest of the components that are not among `offered`.
    fn drop_rest(&mut self, offered: u64) {
        fn drop<T: PartialEq>(component: &mut Option<T>, rest: &T) {
            if component.as_ref() == Some(rest) {
                *component = None;
            }
        }
        let not = |component| offered & component == 0;
        if not(AVX) {
            drop(&mut self.avx, &AvxState::default());
        }
        if not(OPMASK) {
            drop(&mut self.opmask, &OpmaskState::default());
        }
        if not(ZMM_HIGH) {
            drop(&mut self.zmm_high, &ZmmHighState::default());
        }
        if not(HIGH_ZMM) {
            drop(&mut self.high_zmm, &HighZmmState::default());
        }
        if not(PKRU) {
            drop(&mut self.pkru, &PkruState::default());
        }
        if not(TILE_CONFIG) {
            drop(&mut self.tile_config, &TileConfigState { config: [0; 64] });
        }
        if not(TILE_DATA) {
            let tiles = vec![[0; 1024]; TILES];
            drop(&mut self.tile_data, &TileDataState { tiles });
        }
    }
}

/// The components that Tern describes, as bits of XCR0.
pub const DESCRIBED_COMPONENTS: u64 = X87 | SSE | AVX | OPMASK | ZMM_HIGH | HIGH_ZMM | PKRU | TILE_CONFIG | TILE_DATA;

const X87: u64 = 1;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
const OPMASK: u64 = 1 << 5;
const ZMM_HIGH: u64 = 1 << 6;
const HIGH_ZMM: u64 = 1 << 7;
const PKRU: u64 = 1 << 9;
const TILE_CONFIG: u64 = 1 << 17;
const TILE_DATA: u64 = 1 << 18;
/// Tiles that a processor has.
const TILES: usize = 8;

/// The components' names, by number, as Intel's manual has them.
const NAMES: &[(u32, &str)] = &[
    (0, "x87"),
    (1, "SSE"),
    (2, "AVX"),
    (3, "MPX bound registers"),
    (4, "MPX bound configuration"),
    (5, "AVX-512 opmask"),
    (6, "AVX-512 upper halves"),
    (7, "AVX-512 upper registers"),
    (8, "processor trace"),
    (9, "PKRU"),
    (10, "PASID"),
    (11, "CET user"),
    (12, "CET supervisor"),
    (14, "user interrupts"),
    (15, "last branch records"),
    (17, "AMX tile configuration"),
    (18, "AMX tile data"),
    (19, "APX"),
];

/// What a component is called, with its number.
fn name(component: u32) -> String {
    match NAMES.iter().find(|(number, _)| *number == component) {
        Some((_, name)) => format!("{component} ({name})"),
        None => component.to_string(),
    }
}

fn names(components: u64) -> String {
    let named: Vec<_> = (0..64).filter(|bit| components & (1 << bit) != 0).map(name).collect();
    named.join(", ")
}

/// The components that a guest's table offers. One without XSAVE has the first two.
#[must_use]
pub fn components_of(guest: &CpuidTable) -> u64 {
    let offered = guest
        .get(LEAF_XSAVE, 0)
        .map_or(0, |entry| (u64::from(entry.edx) << 32) | u64::from(entry.eax));
    offered | X87 | SSE
}

/// Why an XSAVE area could not be taken apart.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum XsaveError {
    /// The processor uses components that Tern has no description for.
    #[error("the processor has XSAVE components in use that Tern does not describe: {}", names(*.0))]
    Undescribed(u64),
    /// A component's place is not known or lies outside the area.
    #[error("this host's XSAVE area has no room for component {}; it cannot take this guest's state", name(*.0))]
    NoRoom(u32),
}

/// Where this host keeps each component in an XSAVE area of standard format.
#[derive(Clone, Debug, PartialEq)]
pub struct XsaveLayout {
    /// The offset by number of component; zero where there is none.
    offsets: [u32; 64],
}

impl XsaveLayout {
    /// The least area: legacy region and header.
    pub const MIN_AREA: usize = HEADER + 64;

    /// The layout that `host` tells in its leaf 0xd. It has to be the host's own table and no guest's.
    #[must_use]
    pub fn of_host(host: &CpuidTable) -> Self {
        let mut offsets = [0; 64];
        for (component, offset) in (0u32..64).zip(&mut offsets).skip(2) {
            if let Some(entry) = host.get(LEAF_XSAVE, component).filter(|entry| entry.eax != 0) {
                *offset = entry.ebx;
            }
        }
        Self { offsets }
    }

    /// Takes an area apart, of whose components the guest was offered `offered`. (Some kernels show others of the host as well,
    /// at rest, and refuse them when they are to be set. Some let guests use what they were not offered; that is kept.)
    ///
    /// # Errors
    ///
    /// Where the area holds what Tern does not describe, so that it would be lost.
    pub fn take_apart(&self, area: &[u8], offered: u64) -> Result<XsaveState, XsaveError> {
        let in_use = u64::from_le_bytes(bytes(area, HEADER));
        let undescribed = in_use & !DESCRIBED_COMPONENTS;
        if undescribed != 0 {
            return Err(XsaveError::Undescribed(undescribed));
        }
        let has = |component: u64| in_use & component != 0;
        let mut state = XsaveState {
            mxcsr: u32::from_le_bytes(bytes(area, 24)),
            x87: has(X87).then(|| X87State {
                control: u16::from_le_bytes(bytes(area, 0)),
                status: u16::from_le_bytes(bytes(area, 2)),
                tag: area[4],
                opcode: u16::from_le_bytes(bytes(area, 6)),
                instruction_pointer: u64::from_le_bytes(bytes(area, 8)),
                data_pointer: u64::from_le_bytes(bytes(area, 16)),
                registers: std::array::from_fn(|number| bytes(area, ST + number * 16)),
            }),
            sse: has(SSE).then(|| SseState {
                xmm: std::array::from_fn(|number| bytes(area, XMM + number * 16)),
            }),
            avx: self.part(area, in_use, AVX, 256)?.map(|part| AvxState {
                ymm_high: std::array::from_fn(|number| bytes(part, number * 16)),
            }),
            opmask: self.part(area, in_use, OPMASK, 64)?.map(|part| OpmaskState {
                k: std::array::from_fn(|number| u64::from_le_bytes(bytes(part, number * 8))),
            }),
            zmm_high: self.part(area, in_use, ZMM_HIGH, 512)?.map(|part| ZmmHighState {
                zmm_high: std::array::from_fn(|number| bytes(part, number * 32)),
            }),
            high_zmm: self.part(area, in_use, HIGH_ZMM, 1024)?.map(|part| HighZmmState {
                zmm: std::array::from_fn(|number| bytes(part, number * 64)),
            }),
            pkru: self.part(area, in_use, PKRU, 4)?.map(|part| PkruState {
                pkru: u32::from_le_bytes(bytes(part, 0)),
            }),
            tile_config: self
                .part(area, in_use, TILE_CONFIG, 64)?
                .map(|part| TileConfigState { config: bytes(part, 0) }),
            tile_data: self
                .part(area, in_use, TILE_DATA, TILES * 1024)?
                .map(|part| TileDataState {
                    tiles: (0..TILES).map(|number| bytes(part, number * 1024)).collect(),
                }),
        };
        state.drop_rest(offered);
        Ok(state)
    }

    /// Fills `area`, which is zeros and at least [`Self::MIN_AREA`] long.
    ///
    /// # Errors
    ///
    /// Where the host has no place for a component that is in use.
    pub fn put_together(&self, state: &XsaveState, area: &mut [u8]) -> Result<(), XsaveError> {
        // Taken apart so that a new component does not compile until it has a place here.
        let XsaveState {
            mxcsr,
            x87,
            sse,
            avx,
            opmask,
            zmm_high,
            high_zmm,
            pkru,
            tile_config,
            tile_data,
        } = state;
        let mut in_use = 0;
        area[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        // The initial control word counts even where the component is not in use: older kernels look at it.
        area[..2].copy_from_slice(&X87State::default().control.to_le_bytes());
        if let Some(x87) = x87 {
            let X87State {
                control,
                status,
                tag,
                opcode,
                instruction_pointer,
                data_pointer,
                registers,
            } = x87;
            in_use |= X87;
            area[..2].copy_from_slice(&control.to_le_bytes());
            area[2..4].copy_from_slice(&status.to_le_bytes());
            area[4] = *tag;
            area[6..8].copy_from_slice(&opcode.to_le_bytes());
            area[8..16].copy_from_slice(&instruction_pointer.to_le_bytes());
            area[16..24].copy_from_slice(&data_pointer.to_le_bytes());
            put(&mut area[ST..], registers, 16);
        }
        if let Some(SseState { xmm }) = sse {
            in_use |= SSE;
            put(&mut area[XMM..], xmm, 16);
        } else if *mxcsr != XsaveState::default().mxcsr {
            // Kernels look at MXCSR only where one of those in use is a component that it belongs to.
            in_use |= SSE;
        }
        if let Some(AvxState { ymm_high }) = avx {
            put(self.part_mut(area, &mut in_use, AVX, 256)?, ymm_high, 16);
        }
        if let Some(OpmaskState { k }) = opmask {
            put(
                self.part_mut(area, &mut in_use, OPMASK, 64)?,
                &k.map(u64::to_le_bytes),
                8,
            );
        }
        if let Some(ZmmHighState { zmm_high }) = zmm_high {
            put(self.part_mut(area, &mut in_use, ZMM_HIGH, 512)?, zmm_high, 32);
        }
        if let Some(HighZmmState { zmm }) = high_zmm {
            put(self.part_mut(area, &mut in_use, HIGH_ZMM, 1024)?, zmm, 64);
        }
        if let Some(PkruState { pkru }) = pkru {
            put(self.part_mut(area, &mut in_use, PKRU, 4)?, &[pkru.to_le_bytes()], 4);
        }
        if let Some(TileConfigState { config }) = tile_config {
            put(self.part_mut(area, &mut in_use, TILE_CONFIG, 64)?, &[*config], 64);
        }
        if let Some(TileDataState { tiles }) = tile_data {
            put(self.part_mut(area, &mut in_use, TILE_DATA, TILES * 1024)?, tiles, 1024);
        }
        area[HEADER..HEADER + 8].copy_from_slice(&in_use.to_le_bytes());
        Ok(())
    }

    fn part<'a>(
        &self,
        area: &'a [u8],
        in_use: u64,
        component: u64,
        size: usize,
    ) -> Result<Option<&'a [u8]>, XsaveError> {
        if in_use & component == 0 {
            return Ok(None);
        }
        let start = self.offset(component)?;
        area.get(start..start + size)
            .map(Some)
            .ok_or(XsaveError::NoRoom(component.trailing_zeros()))
    }

    fn part_mut<'a>(
        &self,
        area: &'a mut [u8],
        in_use: &mut u64,
        component: u64,
        size: usize,
    ) -> Result<&'a mut [u8], XsaveError> {
        *in_use |= component;
        let start = self.offset(component)?;
        area.get_mut(start..start + size)
            .ok_or(XsaveError::NoRoom(component.trailing_zeros()))
    }

    fn offset(&self, component: u64) -> Result<usize, XsaveError> {
        let number = component.trailing_zeros();
        usize::try_from(number)
            .ok()
            .and_then(|index| usize::try_from(*self.offsets.get(index)?).ok())
            .filter(|&offset| offset >= Self::MIN_AREA)
            .ok_or(XsaveError::NoRoom(number))
    }
}

/// Where the x87 registers start, 16 bytes apart.
const ST: usize = 32;
/// Where the SSE registers start.
const XMM: usize = 160;
/// Where the header starts, XSTATE_BV first.
const HEADER: usize = 512;

fn bytes<const N: usize>(area: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&area[at..at + N]);
    out
}

fn put<const N: usize>(area: &mut [u8], values: &[[u8; N]], stride: usize) {
    for (place, value) in area.chunks_mut(stride).zip(values) {
        place[..N].copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::super::cpuid::CpuidEntry;
    use super::*;

    /// The layout of AMD's processors, where PKRU lies elsewhere than on Intel's.
    fn layout() -> XsaveLayout {
        let entry = |component, size, offset| CpuidEntry {
            eax: size,
            ebx: offset,
            ..CpuidEntry::new(LEAF_XSAVE, component)
        };
        XsaveLayout::of_host(&CpuidTable::new([
            entry(0, 0xe7, 0x980),
            entry(1, 0xf, 0),
            entry(2, 0x100, 0x240),
            entry(5, 0x40, 0x340),
            entry(6, 0x200, 0x380),
            entry(7, 0x400, 0x580),
            entry(9, 8, 0x980),
            entry(17, 64, 0xac0),
            entry(18, 8192, 0xb00),
        ]))
    }

    fn busy() -> XsaveState {
        fn fill<const N: usize, const M: usize>(seed: u8) -> [[u8; N]; M] {
            std::array::from_fn(|row| std::array::from_fn(|byte| seed ^ u8::try_from(row * 7 + byte % 7).unwrap_or(0)))
        }
        XsaveState {
            mxcsr: 0x1fa0,
            x87: Some(X87State {
                control: 0x27f,
                status: 0x3800,
                tag: 0x81,
                registers: fill(1),
                ..X87State::default()
            }),
            sse: Some(SseState { xmm: fill(2) }),
            avx: Some(AvxState { ymm_high: fill(3) }),
            opmask: Some(OpmaskState {
                k: std::array::from_fn(|index| 1 << index),
            }),
            zmm_high: Some(ZmmHighState { zmm_high: fill(4) }),
            high_zmm: Some(HighZmmState { zmm: fill(5) }),
            pkru: Some(PkruState { pkru: 0x5555_5554 }),
            tile_config: Some(TileConfigState { config: [6; 64] }),
            tile_data: Some(TileDataState {
                tiles: fill::<1024, 8>(7).to_vec(),
            }),
        }
    }

    #[test]
    fn every_component_goes_in_and_comes_out() {
        let mut area = vec![0; 0xb00 + 8192];
        layout().put_together(&busy(), &mut area).expect("fits");
        assert_eq!(layout().take_apart(&area, u64::MAX), Ok(busy()));
    }

    /// What is released lies in snapshots by the registers' names: the same bytes have to be the same registers for ever. The
    /// places are those of Intel's manual (volume 1, sections 13.4 and 13.5), written out.
    #[test]
    fn an_area_by_the_manual_is_the_registers_by_name() {
        let byte = |place: usize| u8::try_from((place * 31 + place / 251) % 256).unwrap_or_default();
        let mut area: Vec<u8> = (0..0xb00 + 8192).map(byte).collect();
        // What holds no register.
        for reserved in [5..6, 28..32, 416..512, 520..576, 0x984..0xac0] {
            area[reserved].fill(0);
        }
        for st in 0..8 {
            area[32 + 16 * st + 10..32 + 16 * st + 16].fill(0);
        }
        area[512..520].copy_from_slice(&0x6_02e7_u64.to_le_bytes());
        let state = layout().take_apart(&area, u64::MAX).expect("described");
        let is =
            |register: &[u8], place: usize| assert_eq!(register, &area[place..place + register.len()], "{place:#x}");

        is(&state.mxcsr.to_le_bytes(), 24);
        let x87 = state.x87.as_ref().expect("in use");
        is(&x87.control.to_le_bytes(), 0);
        is(&x87.status.to_le_bytes(), 2);
        is(&[x87.tag], 4);
        is(&x87.opcode.to_le_bytes(), 6);
        is(&x87.instruction_pointer.to_le_bytes(), 8);
        is(&x87.data_pointer.to_le_bytes(), 16);
        is(&x87.registers[1], 48);
        is(&x87.registers[7], 144);
        let xmm = &state.sse.as_ref().expect("in use").xmm;
        is(&xmm[0], 0xa0);
        is(&xmm[15], 0x190);
        let ymm = &state.avx.as_ref().expect("in use").ymm_high;
        is(&ymm[1], 0x250);
        is(&ymm[15], 0x330);
        let k = &state.opmask.as_ref().expect("in use").k;
        is(&k[0].to_le_bytes(), 0x340);
        is(&k[7].to_le_bytes(), 0x378);
        let zmm_high = &state.zmm_high.as_ref().expect("in use").zmm_high;
        is(&zmm_high[1], 0x3a0);
        is(&zmm_high[15], 0x560);
        let zmm = &state.high_zmm.as_ref().expect("in use").zmm;
        is(&zmm[0], 0x580);
        is(&zmm[15], 0x940);
        is(&state.pkru.as_ref().expect("in use").pkru.to_le_bytes(), 0x980);
        is(&state.tile_config.as_ref().expect("in use").config, 0xac0);
        let tiles = &state.tile_data.as_ref().expect("in use").tiles;
        is(&tiles[0], 0xb00);
        is(&tiles[7], 0x2700);

        let mut again = vec![0; area.len()];
        layout().put_together(&state, &mut again).expect("fits");
        assert_eq!(again.iter().zip(&area).position(|(is, was)| is != was), None);
    }

    #[test]
    fn components_at_rest_have_no_contents() {
        let mut area = vec![0; 4096];
        layout().put_together(&XsaveState::default(), &mut area).expect("fits");
        assert_eq!(layout().take_apart(&area, u64::MAX), Ok(XsaveState::default()));
        assert_eq!(area[HEADER..HEADER + 8], [0; 8]);
    }

    #[test]
    fn contents_that_would_be_lost_are_refused_by_name() {
        let mut area = vec![0; 4096];
        area[HEADER + 1] = 0b1000; // CET user
        let error = layout().take_apart(&area, u64::MAX).expect_err("undescribed");
        assert_eq!(error, XsaveError::Undescribed(1 << 11));
        assert!(
            error.to_string().ends_with("does not describe: 11 (CET user)"),
            "{error}"
        );
        assert!(XsaveError::NoRoom(18).to_string().contains("18 (AMX tile data)"));
    }

    #[test]
    fn what_a_guest_was_not_offered_is_its_state_only_where_it_is_in_use() {
        let offered = components_of(&CpuidTable::default());
        let mut area = vec![0; 0xb00 + 8192];
        layout().put_together(&busy(), &mut area).expect("fits");
        assert_eq!(layout().take_apart(&area, offered), Ok(busy()));
        // All components of the host, of which only the first two hold something.
        area[HEADER + 64..].fill(0);
        let wanted = XsaveState {
            mxcsr: busy().mxcsr,
            x87: busy().x87,
            sse: busy().sse,
            ..XsaveState::default()
        };
        assert_eq!(layout().take_apart(&area, offered), Ok(wanted));
        let offering = CpuidTable::new([CpuidEntry {
            eax: 0x207,
            ..CpuidEntry::new(LEAF_XSAVE, 0)
        }]);
        let offered = components_of(&offering);
        assert_eq!(offered, 0x207);
        let shown = layout().take_apart(&area, offered).expect("described");
        assert_eq!((shown.pkru, shown.opmask), (Some(PkruState::default()), None));
    }

    #[test]
    fn mxcsr_is_kept_also_where_no_register_that_it_belongs_to_is_in_use() {
        let state = XsaveState {
            mxcsr: 0x1fa0,
            ..XsaveState::default()
        };
        let mut area = vec![0; 4096];
        layout().put_together(&state, &mut area).expect("fits");
        assert_eq!(area[HEADER], 0b10);
    }

    #[test]
    fn a_host_without_the_component_refuses_the_guest() {
        let error = XsaveLayout::of_host(&CpuidTable::default()).put_together(&busy(), &mut vec![0; 4096]);
        assert_eq!(error, Err(XsaveError::NoRoom(2)));
    }
}
