package command

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/metricsgate/metricsgate/token"
)

func tokenCommand() *cobra.Command {
	var keyFile, uid, scope string
	var config token.MinterConfig
	cmd := &cobra.Command{
		Use:   "token --uid <uid> --key <file>",
		Short: "Mints a session token for tests",
		Long: `
Mints a JSON Web Token for an account and prints it. The key is a file with a
private key in PEM or with a shared secret of at least 32 bytes, such as the
one that 'session jwt' verifies with.`,
		Example: `  caddy metrics-gate token --uid 0123456789abcdef0123456789abcdef --key session.secret --lifetime 10m`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := os.ReadFile(keyFile)
			if err != nil {
				return fmt.Errorf("--key: %w; write the path of a file with a private key in PEM or a secret", err)
			}
			config.Key = bytes.TrimSpace(key)
			minter, err := token.NewMinter(config)
			if err != nil {
				return fmt.Errorf("--%w", err) // a setting has the name of its flag
			}
			minted, err := minter.Mint(uid, scope, "", time.Now())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), minted)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&uid, "uid", "", "the account, as the claim sub")
	flags.StringVar(&keyFile, "key", "", "the file with the private key or the secret")
	flags.StringVar(&config.Issuer, "issuer", "", "the claim iss")
	flags.StringVar(&config.Audience, "audience", "", "the claim aud")
	flags.StringVar(&config.ClientID, "client-id", "", "the claim client_id")
	flags.StringVar(&scope, "scope", "", "the claim scope: words separated by spaces")
	flags.DurationVar(&config.Lifetime, "lifetime", time.Hour, "how long the token is good")
	_ = cmd.MarkFlagRequired("uid")
	_ = cmd.MarkFlagRequired("key")
	return cmd
}
