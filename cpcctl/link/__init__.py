# SPDX-License-Identifier: Apache-2.0
"""The connection between two hosts: ticket, TLS, requests, data streams."""
