//! Where tensors live, chosen by name.

use std::str::FromStr;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

/// A CPU backend. Burn's own default would prefer a GPU and obey an environment variable; the
/// same recipe must give the same bits, so that the device is always named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", try_from = "String")]
pub enum DeviceKind {
    #[default]
    Flex,
    /// Only with the cargo feature `ndarray`.
    #[cfg(feature = "ndarray")]
    Ndarray,
}

/// The name is of no device that this build has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("{0:?} is no device; there are \"flex\" and \"ndarray\"")]
    Unknown(String),
    #[error(
        "device \"ndarray\" is not part of this build; compile with `--features ndarray` or \
         choose \"flex\""
    )]
    NotCompiledIn,
}

impl DeviceKind {
    /// The device itself, without gradients.
    pub fn device(self) -> Device {
        match self {
            Self::Flex => Device::flex(),
            #[cfg(feature = "ndarray")]
            #[expect(deprecated, reason = "kept as the second backend until Burn 0.23 drops it")]
            Self::Ndarray => Device::ndarray(),
        }
    }
}

impl FromStr for DeviceKind {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        match name {
            "flex" => Ok(Self::Flex),
            #[cfg(feature = "ndarray")]
            "ndarray" => Ok(Self::Ndarray),
            #[cfg(not(feature = "ndarray"))]
            "ndarray" => Err(DeviceError::NotCompiledIn),
            other => Err(DeviceError::Unknown(other.to_owned())),
        }
    }
}

impl TryFrom<String> for DeviceKind {
    type Error = DeviceError;

    fn try_from(name: String) -> Result<Self, DeviceError> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_chosen_by_name() {
        assert_eq!("flex".parse(), Ok(DeviceKind::Flex));
        assert_eq!(serde_json::to_string(&DeviceKind::Flex).unwrap(), "\"flex\"");
        let error = serde_json::from_str::<DeviceKind>("\"cuda\"").unwrap_err().to_string();
        assert!(error.contains("cuda") && error.contains("flex"), "{error}");
    }

    #[test]
    fn ndarray_is_there_exactly_with_its_feature() {
        let parsed = "ndarray".parse::<DeviceKind>();
        assert_eq!(parsed.is_ok(), cfg!(feature = "ndarray"));
        if let Err(error) = parsed {
            assert_eq!(error, DeviceError::NotCompiledIn);
        }
    }
}
