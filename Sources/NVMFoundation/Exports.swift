@_exported import NVM
