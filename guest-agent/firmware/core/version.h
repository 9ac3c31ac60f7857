/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CPC_CORE_VERSION_H
#define CPC_CORE_VERSION_H

#ifndef CPC_FIRMWARE_VERSION
#define CPC_FIRMWARE_VERSION "0.1.0"
#endif

#endif
