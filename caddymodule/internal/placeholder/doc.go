// Package placeholder resolves what a configuration value may stand for, such
// as {env.NAME} and {file./path}, when the configuration is loaded.
//
// It is not for placeholders that a request fills in.
package placeholder
